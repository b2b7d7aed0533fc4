"""What the inputs of an exported encoder are, in words and numbers: for cards that are read without mmpt."""

from collections.abc import Mapping

from mmpt.encoders import Modality
from mmpt.encoders.ecg import Ecg
from mmpt.encoders.ecg_stem import STRIDE, EcgStem
from mmpt.encoders.image import Image
from mmpt.encoders.labs import Labs
from mmpt.encoders.speech import Speech
from mmpt.encoders.speech_mel import SpeechMel
from mmpt.encoders.strips import Strips
from mmpt.encoders.text import Text
from mmpt.encoders.video import Video
from mmpt.export.flat import FIXED, latents_name
from mmpt.export.samples import example_inputs

FACTS = "facts.json"


def told(stream: str, modality: Modality) -> str:
    """What values (and places, where they are asked for) hold."""
    for kind, words in WORDS.items():
        if isinstance(modality, kind):
            return words(stream, modality)
    return f"values as {type(modality).__module__}.{type(modality).__name__}.collate gives them"


def _text(stream: str, text: Text) -> str:
    return f"token ids of `tokenizer/{stream}`, between `<s>` and `</s>`; at most {text.max_length} of a row"


def _image(stream: str, image: Image) -> str:
    return (
        f"RGB bytes of the centre square at {image.size} x {image.size} (bicubic), cut into patches of {image.patch} x "
        f"{image.patch}: by row and column, each by row, column and channel; before them one row of zeros, where the "
        "class token stands. All of a row is valid, or nothing"
    )


def _video(stream: str, video: Video) -> str:
    return (
        f"RGB bytes of frames cut to {video.size} x {video.size}, in tubelets of {video.tubelet} frames of "
        f"{video.patch} x {video.patch} pixels by time, row and column (`mmpt.encoders.video`). "
        "All of a row is valid, or nothing"
    )


def _speech(stream: str, speech: Speech) -> str:
    scaled = ", brought to mean 0 and variance 1 by recording" if speech.normalize_wave else ""
    return f"windows of {speech.window} samples every {speech.hop}, of {speech.rate:g} Hz and -1 to 1{scaled}"


def _speech_mel(stream: str, speech: SpeechMel) -> str:
    scaled = ", brought to mean 0 and variance 1 by recording" if speech.normalize == "utterance" else ""
    return (
        f"log-mel patches of {speech.kernel} spectra x {speech.mels} bands every {speech.stride} spectra; spectra of "
        f"{speech.window} samples every {speech.hop}, of {speech.rate:g} Hz, by `mmpt.encoders.speech_mel`{scaled}"
    )


def _scaled(strips: Strips) -> str:
    if strips.normalize == "strip":
        return "every lead brought to mean 0 and variance 1 by recording"
    return f"every lead less `mean`, by `std` of `{FACTS}`"


def _ecg(stream: str, ecg: Ecg) -> str:
    return (
        f"strips of {ecg.patch} samples of one lead at {ecg.rate:g} Hz, {_scaled(ecg)}; leads that were not measured "
        f"are left out. Place: {ecg.max_places} x number of the lead ({', '.join(ecg.leads)}) + number of the strip"
    )


def _ecg_stem(stream: str, ecg: EcgStem) -> str:
    return (
        f"{STRIDE} samples of all leads ({', '.join(ecg.leads)}) at {ecg.rate:g} Hz, {_scaled(ecg)}, and behind them a "
        "line of flags: 2 for a lead that was measured, 0 for one that was not, whose samples are 0"
    )


def _labs(stream: str, labs: Labs) -> str:
    return (
        "a number clipped to `low` and `high`, less `mean`, by `std` of its column, or the number of a category, one "
        f"cell a token in the order of columns; cells that were not measured are left out. Place: the column's number "
        f"in `{FACTS}`"
    )


WORDS = {
    Text: _text,
    Image: _image,
    Video: _video,
    Speech: _speech,
    SpeechMel: _speech_mel,
    Ecg: _ecg,
    EcgStem: _ecg_stem,
    Labs: _labs,
}


def inputs_and_outputs(modalities: Mapping[str, Modality], width: int) -> str:
    """The card's section."""
    lines = ["| name | type | shape | what |", "|---|---|---|---|"]
    for stream, modality in modalities.items():
        example = example_inputs({stream: modality})[0]
        size = str(example[f"{stream}_valid"].shape[1]) if isinstance(modality, FIXED) else f"{stream}_tokens"
        what = {"values": told(stream, modality), "valid": "true where a token is, false in padding, which is behind"}
        for name, value in example.items():
            kind = str(value.dtype).removeprefix("torch.")
            shape = ", ".join(["rows", size, *map(str, value.shape[2:])])
            part = name.rpartition("_")[2]
            lines.append(f"| `{name}` | {kind} | ({shape}) | {what.get(part, 'as said above; 0 in padding')} |")
        latents = "its latents; those of padding mean nothing"
        lines.append(f"| `{latents_name(stream)}`, out | float32 | (rows, {size}, {width}) | {latents} |")
    several = "A row that lacks a stream has no valid token of it." if len(modalities) > 1 else ""
    return "\n".join([*lines, "", several]).rstrip() + "\n"
