"""Make the sample data that ships with mmpt from named Debian packages.

    apt-get update
    python scripts/make_samples.py --debs /tmp/debs --out mmpt/samples

Needs a Debian system (apt-get download, dpkg) and pillow; the same packages give the same bytes. Licences and attribution
stand in mmpt/samples/LICENSES.md.
"""

import argparse
import csv
import gzip
import io
import json
import re
import struct
import subprocess
import xml.etree.ElementTree as ET
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

PACKAGES = ("r-cran-janeaustenr", "fonts-noto-color-emoji", "unicode-cldr-core", "unicode-data")
WORDS = (40, 80)  # of a passage, fewest and most
SIDE = 48  # pixels of a picture
RENDERED_AT = 109  # the one size that the font's bitmaps have
FEWEST_OF_A_CLASS = 60
PEOPLE = ("man", "men", "woman", "women", "person", "people", "boy", "girl", "child", "adult", "mx", "mrs")


def main() -> None:
    """Fetch, make, and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--debs", type=Path, required=True, help="folder for the packages")
    parser.add_argument("--out", type=Path, required=True, help="the samples folder")
    arguments = parser.parse_args()
    root = unpack(arguments.debs)
    passages = list(prose(root))
    write_prose(passages, arguments.out / "text" / "prose.jsonl.gz")
    print(len(passages), "passages", Counter(passage["label"] for passage in passages))
    rows = write_pictures(list(emoji(root)), arguments.out / "images")
    print(len(rows), "pictures", Counter(row["label"] for row in rows), len({row["group"] for row in rows}), "families")


def unpack(debs: Path) -> Path:
    """Download the packages that are not there yet and unpack them without installing."""
    debs.mkdir(parents=True, exist_ok=True)
    missing = [package for package in PACKAGES if not list(debs.glob(f"{package}_*.deb"))]
    if missing:
        subprocess.run(["apt-get", "download", *missing], cwd=debs, check=True)
    for package in PACKAGES:
        subprocess.run(["dpkg", "-x", str(next(debs.glob(f"{package}_*.deb"))), str(debs / "root")], check=True)
    return debs / "root"


# ---- text


def prose(root: Path) -> Iterator[dict[str, str]]:
    """Passages of six novels; the group is the chapter."""
    database = (root / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
    for value in r_values(database):
        lines = r_strings(value)
        novel = " ".join(lines[0].lower().split()).title()
        for chapter, paragraphs in chapters(lines[1:]):
            for number, passage in enumerate(passages_of(paragraphs)):
                name = f"{novel.lower().replace(' ', '-')}-{chapter:02d}"
                yield {"id": f"{name}-{number:02d}", "text": passage, "label": novel, "group": name}


def r_values(database: bytes) -> Iterator[bytes]:
    """Objects of an R lazy-load database: length (big-endian, 4 bytes) and a zlib stream, one after the other."""
    start = 0
    while start < len(database):
        stream = zlib.decompressobj()
        yield stream.decompress(database[start + 4 :])
        start = len(database) - len(stream.unused_data)


def r_strings(value: bytes) -> list[str]:
    """A serialised character vector: type 16, count, then flags, length and bytes of every string."""
    start = value.index(b"\x00\x00\x00\x10") + 4
    (count,) = struct.unpack_from(">i", value, start)
    start += 4
    strings = []
    for _ in range(count):
        _, length = struct.unpack_from(">Ii", value, start)
        start += 8
        strings.append(value[start : start + max(length, 0)].decode("utf-8"))
        start += max(length, 0)
    return strings


def chapters(lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Number of the chapter, counted through all volumes, and its paragraphs."""
    number, paragraph, paragraphs = 0, [], []
    for line in [*lines, "CHAPTER"]:
        if re.match(r"(?i)^chapter\b", line.strip()):
            paragraphs.append(" ".join(paragraph))
            if number:
                yield number, [text for text in paragraphs if text]
            number, paragraph, paragraphs = number + 1, [], []
        elif line.strip() and not re.match(r"(?i)^(volume\b|finis\b|the end\b)", line.strip()):
            paragraph.append(line.strip())
        else:
            paragraphs.append(" ".join(paragraph))
            paragraph = []


def passages_of(paragraphs: list[str]) -> Iterator[str]:
    """Whole sentences of neighbouring paragraphs, as many as fit in the longest passage."""
    sentences = [
        s for text in paragraphs for s in re.split(r"(?<=[.!?][\"']) +(?=[A-Z\"'])|(?<=[.!?]) +(?=[A-Z\"'])", text)
    ]
    passage: list[str] = []
    for sentence in sentences:
        words = re.sub(r"\s+", " ", sentence).strip().replace("_", "").split(" ")
        if len(passage) >= WORDS[0] and len(passage) + len(words) > WORDS[1]:
            yield " ".join(passage)
            passage = []
        passage += words
    if len(passage) >= WORDS[0]:
        yield " ".join(passage)


def write_prose(passages: list[dict[str, str]], path: Path) -> None:
    """One JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(passage, ensure_ascii=False) + "\n" for passage in passages)
    path.write_bytes(gzip.compress(text.encode("utf-8"), 9, mtime=0))


# ---- images


def emoji(root: Path) -> Iterator[dict[str, Any]]:
    """Colour emoji without skin tones: picture, caption, class and family."""
    font = ImageFont.truetype(str(root / "usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"), RENDERED_AT)
    words = keywords(root)
    label = family = ""
    for line in (root / "usr/share/unicode/emoji/emoji-test.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("# group:"):
            label = line.split(":", 1)[1].strip()
        elif line.startswith("# subgroup:"):
            family = line.split(":", 1)[1].strip()
        found = re.match(r"([0-9A-F ]+?)\s*; fully-qualified\s*# \S+ E[\d.]+ (.*)", line)
        if not found or re.search("1F3F[B-F]", found[1]):
            continue
        codes = found[1].split()
        picture = drawn("".join(chr(int(code, 16)) for code in codes), font)
        if picture is None:
            continue
        extra = [
            w for w in words.get("".join(chr(int(c, 16)) for c in codes).replace("\ufe0f", ""), []) if w != found[2]
        ]
        caption = found[2] + (": " + ", ".join(extra) if extra else "")
        yield {
            "file": "-".join(codes).lower() + ".png",
            "picture": picture,
            "caption": caption,
            "label": label,
            "group": family_of(found[2], family),
        }


def keywords(root: Path) -> dict[str, list[str]]:
    """English keywords of every emoji."""
    found: dict[str, list[str]] = {}
    for folder in ("annotations", "annotationsDerived"):
        tree = ET.parse(root / "usr/share/unicode/cldr/common" / folder / "en.xml")
        for note in tree.getroot().iter("annotation"):
            if note.get("type") != "tts" and note.text:
                found[(note.get("cp") or "").replace("\ufe0f", "")] = note.text.split(" | ")
    return found


def drawn(characters: str, font: ImageFont.FreeTypeFont) -> Image.Image | None:
    """The picture on white, cropped to a square; None where the font has no single glyph for it."""
    canvas = Image.new("RGB", (400, 170), "white")
    ImageDraw.Draw(canvas).text((20, 10), characters, font=font, embedded_color=True, fill="black")
    box = Image.eval(canvas.convert("L"), lambda value: 255 if value < 250 else 0).getbbox()
    if box is None or box[2] - box[0] > 150:
        return None
    glyph = canvas.crop(box)
    glyph.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (SIDE, SIDE), "white")
    square.paste(glyph, ((SIDE - glyph.width) // 2, (SIDE - glyph.height) // 2))
    return square


def family_of(name: str, subgroup: str) -> str:
    """What looks alike: one pose in all genders, and what differs by a number, a side or a shade."""
    plain = re.sub(r"[^a-z ]", " ", name.lower())
    dull = (*PEOPLE, "left", "right", "up", "down", "o clock", "thirty", "facing", "with", "and", "the", "in")
    kept = [word for word in plain.split() if word not in dull]
    if subgroup in ("time", "family", "country-flag", "keycap", "alphanum", "zodiac", "arrow", "geometric", "moon"):
        return subgroup if subgroup != "country-flag" else f"flag-{kept[-1] if kept else name}"
    first = kept[0] if kept else name
    return f"{subgroup}-{first}"


def write_pictures(found: list[dict[str, Any]], folder: Path) -> list[dict[str, str]]:
    """The zip of PNGs and the table beside it; classes with few pictures and second copies of a picture are left out."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = Counter(item["label"] for item in found)
    rows, seen = [], set()
    with zipfile.ZipFile(folder / "emoji.zip", "w", zipfile.ZIP_STORED) as archive:
        for item in sorted(found, key=lambda item: item["file"]):
            pixels = item["picture"].tobytes()
            if counts[item["label"]] < FEWEST_OF_A_CLASS or pixels in seen:
                continue
            seen.add(pixels)
            buffer = io.BytesIO()
            item["picture"].quantize(128, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
            archive.writestr(zipfile.ZipInfo(item["file"], (2020, 1, 1, 0, 0, 0)), buffer.getvalue())
            rows.append({key: item[key] for key in ("file", "caption", "label", "group")})
    with (folder / "emoji.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["file", "caption", "label", "group"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return rows


if __name__ == "__main__":
    main()
