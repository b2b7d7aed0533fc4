"""Small real inputs that the data tests share: prose, pictures, and damage."""

import csv
import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

WORDS = ["sea", "wind", "harbour", "lantern", "winter", "ship", "captain", "letter", "garden", "stone", "river"]
WORDS += ["morning", "shadow", "bread", "song"]


def prose(number: int, words: int = 30) -> str:
    """The same sentence for the same number."""
    generator = np.random.default_rng(number)
    return " ".join(generator.choice(WORDS, words)).capitalize() + "."


def picture(number: int, width: int = 24, height: int = 18) -> Image.Image:
    """A disc on a coloured ground."""
    generator = np.random.default_rng(number)
    ground, ink = (tuple(int(c) for c in generator.integers(0, 256, 3)) for _ in range(2))
    image = Image.new("RGB", (width, height), ground)
    ImageDraw.Draw(image).ellipse((2, 2, 12, 12), fill=ink)
    return image


def picture_bytes(number: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    picture(number).save(file, kind)
    return file.getvalue()


def write_jsonl(path: Path, count: int, per_group: int = 3, extra: tuple[bytes, ...] = ()) -> Path:
    lines = [
        json.dumps(
            {"id": i, "text": prose(i, 5 + i % 40), "label": "ab"[i % 2], "group": f"book {i // per_group}"}
        ).encode()
        for i in range(count)
    ]
    data = b"\n".join([*lines, *extra]) + b"\n"
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def write_pictures(folder: Path, count: int) -> Path:
    for i in range(count):
        place = folder / ("cat" if i % 2 else "dog") / f"p{i:03d}.{('png', 'jpg', 'webp')[i % 3]}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(picture_bytes(i, ("PNG", "JPEG", "WEBP")[i % 3]))
    return folder


def write_table(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    """A tar as somebody else may write it."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def contents(folder: Path) -> dict[str, str]:
    """Every file of a folder with a hash of its bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def members(folder: Path) -> dict[str, bytes]:
    """Every member of every tar, as tarfile sees them."""
    found = {}
    for path in sorted(folder.rglob("*.tar")):
        with tarfile.open(path) as tar:
            for entry in tar:
                file = tar.extractfile(entry)
                assert file
                found[entry.name] = file.read()
    return found
