"""The small real data that comes with mmpt, and the shards made of it; see LICENSES.md beside this file."""

from pathlib import Path

from rich.console import Console

from mmpt.errors import DataError

FOLDER = Path(__file__).parent
VOCABULARY = 4096
PICTURE_SHARD = 500
PICTURE_SPLIT = (0.6, 0.1, 0.3)  # a tenth would be 170 pictures, too few to tell two encoders apart


def build_samples(out: Path, console: Console) -> None:
    """Write `out/text` and `out/images` (pictures with captions, in the text's tokens); what is there already stays."""
    from mmpt.data.builders.images import build_images
    from mmpt.data.builders.text import build_text

    text, images = out / "text", out / "images"
    if not _is_there(text, console):
        made = build_text([FOLDER / "text" / "glosses.jsonl.gz"], text, vocabulary=VOCABULARY)
        console.print(f"{text}: {len(made)} texts", markup=False)
    if not _is_there(images, console):
        table = FOLDER / "images" / "emoji.csv"
        pictures = FOLDER / "images" / "emoji.zip"
        made = build_images(
            pictures,
            images,
            captions=table,
            labels=table,
            tokenizer=text / "tokenizer",
            samples_per_shard=PICTURE_SHARD,
            split=PICTURE_SPLIT,
        )
        console.print(f"{images}: {len(made)} captioned pictures", markup=False)


def _is_there(folder: Path, console: Console) -> bool:
    from mmpt.data.manifest import load_manifest

    if not (folder / "manifest.json").exists():
        return False
    try:
        samples = len(load_manifest(folder))
    except DataError as error:
        raise DataError(f"{error} (or remove {folder} to have it made again)") from error
    console.print(f"{folder}: {samples} samples are there already", markup=False)
    return True
