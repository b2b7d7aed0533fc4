"""Speech: telephone prompts in five languages and six voices; the label is whether a sibilant is heard.

A voice or a language would be told by the recording channel alone. Here every voice says as many clips of either class
in every span of length, so that voice, channel and length tell nothing.
"""

import gzip
import re
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from samples.packages import unpack_debs
from samples.phones import PACKAGES as PHONE_PACKAGES
from samples.phones import Phones
from samples.sound import RATE, clip_of, opus
from samples.tables import write_table

VOICES = {
    "en_US_f_Allison": "en", "es_MX_f_Allison": "es", "fr_CA_f_June": "fr", "it_IT_f_Menardi": "it",
    "it_IT_m_Carlo": "it", "ru_RU_f_IvrvoiceRU": "ru",
}  # fmt: skip
ACCENTS = {"en": "en-us", "es": "es-419", "fr": "fr", "it": "it", "ru": "ru"}
PACKAGES = (
    *(f"asterisk-core-sounds-{language}{ending}" for language in ACCENTS for ending in ("", "-wav")),
    "asterisk-prompt-it-menardi-wav",
    *PHONE_PACKAGES,
)
SIBILANTS = re.compile("[szʃʒɕʑʂʐ]")
CLASSES = ("sibilant", "no sibilant")
COLUMNS = ("file", "text", "label", "group", "voice", "language")
SHORTEST, LONGEST, SPAN = 0.3, 6.0, 0.2  # seconds


@dataclass(frozen=True)
class Prompt:
    """A recorded prompt; the key is its path without the voice's folder."""

    voice: str
    key: str
    text: str
    label: str
    clip: np.ndarray

    @property
    def name(self) -> str:
        return f"{self.voice}/{self.key}.ogg"

    @property
    def seconds(self) -> float:
        return len(self.clip) / RATE


def make_speech(debs: Path, out: Path) -> None:
    """Write `prompts.zip` and `speech.csv`."""
    root = unpack_debs(debs, PACKAGES)
    prompts = balanced([prompt for voice in VOICES for prompt in prompts_of(voice, root)])
    groups = groups_of(prompts)
    out.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(out / "prompts.zip", "w", zipfile.ZIP_STORED) as archive:
        for prompt in prompts:
            data = opus(prompt.clip, zlib.crc32(prompt.name.encode()))
            archive.writestr(zipfile.ZipInfo(prompt.name, (2020, 1, 1, 0, 0, 0)), data)
    rows = [
        {
            "file": prompt.name,
            "text": prompt.text,
            "label": prompt.label,
            "group": groups[prompt.key],
            "voice": prompt.voice,
            "language": VOICES[prompt.voice],
        }
        for prompt in prompts
    ]
    write_table(out / "speech.csv", COLUMNS, rows)
    minutes = sum(prompt.seconds for prompt in prompts) / 60
    print(len(rows), f"clips, {minutes:.1f} minutes,", Counter(row["label"] for row in rows), end=" ")
    print(Counter(row["voice"] for row in rows), len(set(groups.values())), "groups")


def prompts_of(voice: str, root: Path) -> list[Prompt]:
    """A voice's prompts that have a transcript and a fitting length, in the order of their keys."""
    texts, phones = transcripts(VOICES[voice], root), Phones(root)
    folder, prompts = root / "usr/share/asterisk/sounds" / voice, []
    for path in sorted(folder.rglob("*.wav")):
        key = path.relative_to(folder).with_suffix("").as_posix()
        recording, _ = soundfile.read(path, dtype="float64")
        if key not in texts or len(recording) < SHORTEST * RATE or not recording.any():
            continue
        clip = clip_of(recording, zlib.crc32(f"{voice}/{key}".encode()))
        if SHORTEST <= len(clip) / RATE <= LONGEST:
            heard = SIBILANTS.search(phones(texts[key], ACCENTS[VOICES[voice]]))
            prompts.append(Prompt(voice, key, texts[key], CLASSES[0] if heard else CLASSES[1], clip))
    return prompts


def transcripts(language: str, root: Path) -> dict[str, str]:
    """Key -> what is said; tones and silences, described in brackets, are left out."""
    path = root / f"usr/share/doc/asterisk-core-sounds-{language}/core-sounds-{language}.txt.gz"
    lines = gzip.decompress(path.read_bytes()).decode("utf-8-sig").splitlines()
    found = (re.match(r"([\w/.-]+)\s*:\s*([^\s\[(<].*)", line) for line in lines)
    return {line[1]: " ".join(line[2].split()) for line in found if line}


def balanced(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Of every voice and span of length as many prompts of one class as of the other."""
    cells: defaultdict[tuple[str, int], list[Prompt]] = defaultdict(list)
    for prompt in sorted(prompts, key=lambda prompt: zlib.crc32(prompt.key.encode())):
        cells[prompt.voice, int((prompt.seconds - SHORTEST) / SPAN)].append(prompt)
    kept = []
    for cell in cells.values():
        fewest = min(sum(prompt.label == label for prompt in cell) for label in CLASSES)
        for label in CLASSES:
            kept += [prompt for prompt in cell if prompt.label == label][:fewest]
    return sorted(kept, key=lambda prompt: prompt.name)


def groups_of(prompts: Sequence[Prompt]) -> dict[str, str]:
    """Key -> the first of all keys that are tied to it by an equal text."""
    leader = {prompt.key: prompt.key for prompt in prompts}

    def first(key: str) -> str:
        while leader[key] != key:
            key = leader[key]
        return key

    by_text: dict[str, str] = {}
    for prompt in prompts:
        text = " ".join(re.findall(r"\w+", prompt.text.casefold()))
        one, other = sorted((first(prompt.key), first(by_text.setdefault(text, prompt.key))))
        leader[other] = one
    return {key: first(key) for key in leader}
