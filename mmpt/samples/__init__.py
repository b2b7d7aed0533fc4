"""The small real data that comes with mmpt, and the shards made of it; see LICENSES.md beside this file."""

from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from mmpt.data.manifest import Manifest, load_manifest
from mmpt.errors import DataError

FOLDER = Path(__file__).parent
VOCABULARY = 4096
SHARD = 500  # samples a tar, of data sets with a few thousand
BEAT = 140  # samples of a beat; all beats were stretched to one length, which then counts as a second
CLIP = 12  # frames
LARGE_TEST = (0.6, 0.1, 0.3)  # where a tenth would be too few to tell two encoders apart


def build_samples(out: Path, console: Console) -> None:
    """Write `out/text`, `images`, `speech`, `ecg`, `labs`, all in the tokens of the first, and `video`.

    What is there stays.
    """
    tokenizer = out / "text" / "tokenizer"
    makers: dict[str, Callable[[Path], Manifest]] = {
        "text": _text,
        "images": lambda folder: _images(folder, tokenizer),
        "speech": lambda folder: _speech(folder, tokenizer),
        "ecg": lambda folder: _ecg(folder, tokenizer),
        "labs": lambda folder: _labs(folder, tokenizer),
        "video": _video,
    }
    for name, make in makers.items():
        folder = out / name
        if _is_there(folder, console):
            continue
        made = make(folder)
        fields = ", ".join(field for field in made.fields if field != "labels")
        console.print(f"{folder}: {len(made)} samples of {fields}", markup=False)


def _text(folder: Path) -> Manifest:
    from mmpt.data.builders.text import build_text

    return build_text([FOLDER / "text" / "glosses.jsonl.gz"], folder, vocabulary=VOCABULARY)


def _images(folder: Path, tokenizer: Path) -> Manifest:
    from mmpt.data.builders.images import build_images

    own = FOLDER / "images"
    table = own / "emoji.csv"
    return build_images(
        own / "emoji.zip",
        folder,
        captions=table,
        labels=table,
        tokenizer=tokenizer,
        samples_per_shard=SHARD,
        split=LARGE_TEST,
    )


def _speech(folder: Path, tokenizer: Path) -> Manifest:
    from mmpt.data.builders.speech import build_speech

    own = FOLDER / "speech"
    table = own / "speech.csv"
    return build_speech(
        own / "prompts.zip",
        folder,
        transcripts=table,
        labels=table,
        tokenizer=tokenizer,
        samples_per_shard=SHARD,
        split=LARGE_TEST,
    )


def _ecg(folder: Path, tokenizer: Path) -> Manifest:
    from mmpt.data.builders.ecg import build_ecg

    own = FOLDER / "ecg"
    table = own / "ecg.csv"
    return build_ecg(
        own / "beats.npz",
        folder,
        labels=table,
        reports=table,
        leads=["ECG"],  # which of the record's two, nobody says
        source_rate=BEAT,
        unit="none",
        tokenizer=tokenizer,
        split=LARGE_TEST,
    )


def _labs(folder: Path, tokenizer: Path) -> Manifest:
    from mmpt.data.builders.labs import build_labs
    from mmpt.data.lab_table import read_units

    own = FOLDER / "labs"
    return build_labs(
        own / "support2.csv.gz",
        folder,
        form="wide",
        columns=[*read_units(own / "units.csv"), "sex"],
        categorical=("sex",),
        units=own / "units.csv",
        labels=("dzgroup", "hospdead"),
        tokenizer=tokenizer,
        split=LARGE_TEST,
    )


def _video(folder: Path) -> Manifest:
    from mmpt.data.builders.video import build_video

    return build_video(FOLDER / "video" / "tiles.zip", folder, frames=CLIP)


def _is_there(folder: Path, console: Console) -> bool:
    if not (folder / "manifest.json").exists():
        return False
    try:
        samples = len(load_manifest(folder))
    except DataError as error:
        raise DataError(f"{error} (or remove {folder} to have it made again)") from error
    console.print(f"{folder}: {samples} samples are there already", markup=False)
    return True
