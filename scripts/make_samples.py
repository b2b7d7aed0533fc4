"""Make the sample data that ships with mmpt from named Debian packages, and say in LICENSES.md what it is.

    apt-get update
    python scripts/make_samples.py                  # both; or only `text`, or only `images`

Needs a Debian system (apt-get download, dpkg); the same packages give the same bytes. Every run measures the classical
baselines on mmpt's own split by group.
"""

import argparse
import csv
import gzip
import io
import json
import re
import struct
import subprocess
import tempfile
import xml.etree.ElementTree as ET
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from mmpt.data.split import SPLITS, split_of

PACKAGES = {
    "text": ("r-cran-janeaustenr",),
    "images": ("fonts-noto-color-emoji", "unicode-data", "unicode-cldr-core"),
}
Record = dict[str, str]

FEWEST_WORDS = 40  # of a passage: shorter paragraphs are joined to their neighbours
MOST_WORDS = 120  # of a paragraph kept whole
SENTENCE_ENDS = re.compile(r"(?<!\bMr\.)(?<!\bMrs\.)(?<!\bDr\.)(?<!\bSt\.)(?:(?<=[.!?])|(?<=[.!?][\"'])) +(?=[A-Z\"'])")

SIDE = 48  # pixels of a picture
RENDERED_AT = 109  # the one size that the font's bitmaps have
GLYPH = 136  # pixels of a bitmap's longer side at that size
LEVEL = 8  # colours are rounded to multiples of it: half the bytes, for at most 4 of 255 levels
FEWEST_PICTURES = 60  # of a class
ALIKE = 0.15  # difference of two pictures, as a share of the ink of the lighter one, below which they are one family
ONE_FAMILY = ("family", "keycap", "zodiac", "arrow")  # subgroups that are variations of one picture
VARIATIONS = re.compile(
    r"\b(m[ae]n|wom[ae]n|person|people|boy|girl|mx|mrs|left|right|up|down|leftwards|rightwards|upwards|downwards"
    r"|large|medium|small|medium-small|dark|light|red|orange|yellow|green|blue|purple|brown|black|white|pink|grey)\b|\u2019s\b"
)


def main() -> None:
    """Fetch, make, measure, and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help="text, images (default: both)")
    parser.add_argument("--debs", type=Path, help="keep the packages in this folder (default: a temporary one)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "mmpt" / "samples")
    arguments = parser.parse_args()
    what = arguments.what or list(PACKAGES)
    if unknown := sorted(set(what) - set(PACKAGES)):
        parser.error(f"takes text and images, got {', '.join(unknown)}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        versions = unpack(arguments.debs or root / "debs", root)
        if "text" in what:
            write_prose(prose(root), arguments.out / "text" / "prose.jsonl.gz")
        if "images" in what:
            write_pictures(emoji(root), arguments.out / "images")
        write_licences(root, versions, arguments.out)


def unpack(debs: Path, root: Path) -> dict[str, str]:
    """Download the packages that are not there yet, unpack them without installing; their versions."""
    debs.mkdir(parents=True, exist_ok=True)
    versions = {}
    for package in (name for names in PACKAGES.values() for name in names):
        if not list(debs.glob(f"{package}_*.deb")):
            subprocess.run(["apt-get", "download", package], cwd=debs, check=True)
        (deb,) = debs.glob(f"{package}_*.deb")
        subprocess.run(["dpkg", "-x", str(deb), str(root)], check=True)
        found = subprocess.run(["dpkg", "-f", str(deb), "Version"], check=True, capture_output=True, text=True)
        versions[package] = found.stdout.strip()
    return versions


# ---- text


def prose(root: Path) -> Iterator[Record]:
    """Passages of six novels; the group is the chapter."""
    database = (root / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
    for value in r_values(database):
        title, *lines = r_strings(value)
        novel = " ".join(title.split()).title().replace(" And ", " and ")
        for number, paragraphs in enumerate(chapters(lines), start=1):
            chapter = f"{novel.lower().replace(' ', '-')}-chapter-{number:02d}"
            for place, passage in enumerate(passages_of(paragraphs)):
                yield {"id": f"{chapter}-{place:03d}", "text": passage, "label": novel, "group": chapter}


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


def chapters(lines: list[str]) -> Iterator[list[str]]:
    """Paragraphs of every chapter of all volumes, without headings, marks of emphasis and the title page."""
    text = "\n".join(line.strip().replace("_", "") for line in lines)
    text = re.sub(r"\[(?:End volume|At this point)[^\]]*\]", "", text)  # the editor's notes
    text = re.sub(r"(?mi)^(volume [ivx\d]+|finis|the end|[* ]+)\.?$", "", text)
    for chapter in re.split(r"(?mi)^chapter\b.*$", text)[1:]:
        yield [" ".join(paragraph.split()) for paragraph in re.split(r"\n{2,}", chapter) if paragraph.strip()]


def passages_of(paragraphs: list[str]) -> list[str]:
    """A paragraph each: long ones are divided between sentences, short ones joined to what follows."""
    pieces: list[str] = []
    for paragraph in paragraphs:
        whole = len(paragraph.split()) <= MOST_WORDS
        pieces += [paragraph] if whole else gathered(SENTENCE_ENDS.split(paragraph))
    return gathered(pieces)


def gathered(pieces: Iterable[str]) -> list[str]:
    """Neighbours joined until they have enough words; what is left over belongs to the last."""
    found: list[str] = []
    for piece in pieces:
        if found and len(found[-1].split()) < FEWEST_WORDS:
            found[-1] += " " + piece
        else:
            found.append(piece)
    if len(found) > 1 and len(found[-1].split()) < FEWEST_WORDS:
        rest = found.pop()
        found[-1] += " " + rest
    return found


def write_prose(passages: Iterable[Record], path: Path) -> None:
    """One JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(passage, ensure_ascii=False) + "\n" for passage in passages)
    path.write_bytes(gzip.compress(text.encode("utf-8"), 9, mtime=0))


# ---- images


def emoji(root: Path) -> Iterator[tuple[Record, Image.Image]]:
    """Colour emoji without skin tones; the group here is what the name says of the family."""
    font = ImageFont.truetype(str(root / "usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"), RENDERED_AT)
    words = keywords(root)
    label = subgroup = ""
    for line in (root / "usr/share/unicode/emoji/emoji-test.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("# group:"):
            label = line.split(":", 1)[1].strip()
        elif line.startswith("# subgroup:"):
            subgroup = line.split(":", 1)[1].strip()
        found = re.match(r"([0-9A-F ]+?)\s*; fully-qualified\s*# \S+ E[\d.]+ (.*)", line)
        if not found or re.search("1F3F[B-F]", found[1]):
            continue
        characters, name = "".join(chr(int(code, 16)) for code in found[1].split()), found[2]
        picture = drawn(characters, font)
        if picture:
            file = found[1].lower().replace(" ", "-") + ".png"
            caption = captioned(name, words.get(characters.replace("\ufe0f", ""), []))
            yield {"file": file, "caption": caption, "label": label, "group": family_of(name, subgroup)}, picture


def keywords(root: Path) -> dict[str, list[str]]:
    """English keywords of every emoji."""
    found: dict[str, list[str]] = {}
    for folder in ("annotations", "annotationsDerived"):
        tree = ET.parse(root / "usr/share/unicode/cldr/common" / folder / "en.xml")
        for note in tree.getroot().iter("annotation"):
            if note.get("type") != "tts" and note.text:
                found[(note.get("cp") or "").replace("\ufe0f", "")] = note.text.split(" | ")
    return found


def captioned(name: str, keywords: list[str]) -> str:
    """The name and those keywords that add to it."""
    said = set(re.findall(r"[^\W_]+", name.lower()))
    more = [word for word in keywords if not set(re.findall(r"[^\W_]+", word.lower())) <= said]
    return f"{name}: {', '.join(more)}" if more else name


def drawn(characters: str, font: ImageFont.FreeTypeFont) -> Image.Image | None:
    """The picture on white; None where the font has no single glyph for it."""
    left, top, right, bottom = (round(edge) for edge in font.getbbox(characters))
    if not 0 < right - left <= GLYPH:
        return None
    canvas = Image.new("RGB", (GLYPH, GLYPH), "white")
    corner = ((GLYPH - right - left) // 2, (GLYPH - bottom - top) // 2)
    ImageDraw.Draw(canvas).text(corner, characters, font=font, embedded_color=True, fill="black")
    small = canvas.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return small.point(lambda level: min(255, round(level / LEVEL) * LEVEL))


def family_of(name: str, subgroup: str) -> str:
    """What names tell: one thing in all genders, colours, sizes and directions; hours and moons are one each."""
    if subgroup in ONE_FAMILY:
        return subgroup
    if re.search(r"o\u2019clock|-thirty$", name):
        return "clock"
    if subgroup == "sky & weather" and "moon" in name.split():
        return "moon"
    plain = " ".join(VARIATIONS.sub(" ", name.lower()).split())
    return f"{subgroup}: {plain}"


def families(pictures: list[Image.Image], told: list[str]) -> list[int]:
    """For every picture the first of its family: those that share a name or look nearly the same, and so on."""
    pixels = np.stack([np.asarray(picture.resize((16, 16), Image.Resampling.BOX)) for picture in pictures])
    pixels = 1 - pixels.reshape(len(pictures), -1).astype(np.float32) / 255
    ink = pixels.mean(1) + 0.02
    first = np.arange(len(pictures))
    names = np.array(told)
    for i in range(len(pictures)):
        alike = np.abs(pixels - pixels[i]).mean(1) < ALIKE * np.minimum(ink, ink[i])
        joined = first[alike | (names == names[i])]
        first[np.isin(first, joined)] = joined.min()
    return first.tolist()


def write_pictures(found: Iterable[tuple[Record, Image.Image]], folder: Path) -> None:
    """The zip of PNGs and the table beside it, without second copies of a picture and small classes."""
    folder.mkdir(parents=True, exist_ok=True)
    distinct = {
        picture.tobytes(): (row, picture)
        for row, picture in sorted(found, key=lambda pair: pair[0]["file"], reverse=True)
    }
    counts = Counter(row["label"] for row, _ in distinct.values())
    kept = [(row, picture) for row, picture in reversed(distinct.values()) if counts[row["label"]] >= FEWEST_PICTURES]
    first = families([picture for _, picture in kept], [row["group"] for row, _ in kept])
    names = [Path(row["file"]).stem for row, _ in kept]
    with (
        zipfile.ZipFile(folder / "emoji.zip", "w", zipfile.ZIP_STORED) as archive,
        (folder / "emoji.csv").open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, ["file", "caption", "label", "group"], lineterminator="\n")
        writer.writeheader()
        for (row, picture), family in zip(kept, first, strict=True):
            buffer = io.BytesIO()
            picture.save(buffer, "PNG", optimize=True)
            archive.writestr(zipfile.ZipInfo(row["file"], (2020, 1, 1, 0, 0, 0)), buffer.getvalue())
            writer.writerow({**row, "group": names[family]})


# ---- what it is: licences, numbers, classical baselines


def read_prose(out: Path) -> list[Record]:
    """The passages as they are shipped."""
    with gzip.open(out / "text" / "prose.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def read_pictures(out: Path) -> tuple[list[Record], np.ndarray]:
    """The table as it is shipped, and every picture as 16 x 16 x 3 numbers."""
    with (out / "images" / "emoji.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with zipfile.ZipFile(out / "images" / "emoji.zip") as archive:
        pictures = [Image.open(archive.open(row["file"])).resize((16, 16), Image.Resampling.BOX) for row in rows]
    return rows, np.stack([np.asarray(picture) for picture in pictures]).reshape(len(rows), -1) / 255


def without_names(texts: list[str]) -> list[str]:
    """Every capitalised word that the novels hardly ever write small, replaced."""
    small = Counter(word for text in texts for word in re.findall(r"\b[a-z]+\b", text))
    return [
        re.sub(r"\b[A-Z][a-z]+\b", lambda word: word[0] if small[word[0].lower()] >= 3 else "Name", text)
        for text in texts
    ]


def accuracy(model: Pipeline, inputs: list[str] | np.ndarray, rows: list[Record]) -> str:
    """Accuracy on the test groups of a model of the training groups, beside that of the commonest class."""
    labels, splits = np.array([row["label"] for row in rows]), np.array(splits_of(rows))
    inputs = np.array(inputs)
    train, test = splits == "train", splits == "test"
    commonest = Counter(labels[train]).most_common(1)[0][0]
    right = model.fit(inputs[train], labels[train]).score(inputs[test], labels[test])
    return f"{right:.3f} (the commonest class: {np.mean(labels[test] == commonest):.3f})"


def splits_of(rows: list[Record]) -> list[str]:
    """The 80/10/10 split by group that mmpt's builders make."""
    return [split_of(row["group"], (0.8, 0.1, 0.1)) for row in rows]


def numbers(rows: list[Record]) -> str:
    """Records, classes, groups and splits; a table of the classes."""
    splits = Counter(splits_of(rows))
    shares = ", ".join(f"{splits[split]} {split}" for split in SPLITS)
    groups, counts = {row["group"] for row in rows}, Counter(row["label"] for row in rows)
    head = f"{len(rows)} records, {len(counts)} classes, {len(groups)} groups; {shares}."
    table = ["| class | records | groups | in validation | in test |", "|---|---|---|---|---|"]
    for label, count in sorted(counts.items()):
        mine = [row for row in rows if row["label"] == label]
        parts = Counter(splits_of(mine))
        table.append(
            f"| {label} | {count} | {len({r['group'] for r in mine})} | {parts['validation']} | {parts['test']} |"
        )
    return "\n".join([head, "", *table])


LICENCES = """\
# Where the sample data comes from

Real data, made from Debian packages without installing them, by

    apt-get update && python scripts/make_samples.py

which also writes this page and measures the baselines in it: logistic regression on mmpt's own 80/10/10 split by group.
mmpt's own licence does not cover these files. The packages' copyright files stand in full at the end.

## text/prose.jsonl.gz

- Command: `python scripts/make_samples.py text`. {text_bytes} bytes; {raw_bytes} bytes of text.
- Source: Debian package r-cran-janeaustenr {r-cran-janeaustenr}: Project Gutenberg's texts, collected by Julia Silge.
- Licence: the six novels of Jane Austen (1775-1817) are in the public domain; the package is MIT.
- Record: a paragraph. Those under {fewest} words are joined to the next, those over {most} divided between sentences.
  The label is the novel, the group the chapter. Headings, underscores of emphasis, rows of stars and the editor's notes
  are gone; no word is changed. Groups are named so that the split's hash leaves every novel in every split (the plainer
  "emma-01" left Emma out of test); of eleven ways to name them only these shares were looked at, never an accuracy.
- TF-IDF and logistic regression, accuracy on test: {text_accuracy}.
- **Names give the novel away**: with every capitalised word that is hardly ever written small replaced, which was done
  for this measurement only, the same model has {nameless_accuracy}.

{text_numbers}

## images/emoji.zip

- Command: `python scripts/make_samples.py images`. {zip_bytes} bytes.
- Source: Debian package fonts-noto-color-emoji {fonts-noto-color-emoji} (Noto Color Emoji, copyright Google Inc.).
- Licence: SIL Open Font License 1.1 (OFL-1.1); the pictures stay under it.
- Changes: one bitmap of the font each, on white, scaled to {side} x {side} pixels, RGB, levels rounded to multiples
  of {level}. No skin tones; of pictures with the same pixels (flags of Norway and Bouvet Island) the first is kept.

## images/emoji.csv

- Command: the same. {csv_bytes} bytes.
- Source: Debian packages unicode-data {unicode-data} (names, classes: emoji-test.txt) and unicode-cldr-core
  {unicode-cldr-core} (English keywords). Copyright Unicode, Inc.
- Licence: Unicode License Agreement - Data Files and Software (2016). Changes: selected, joined and put in this table.
- The caption is the name and the keywords that add to it; the label is Unicode's group. The group is the family:
  one thing in all genders, colours, sizes and directions, the hours, the moons, and whatever looks nearly the same
  (mean difference at 16 x 16 below {alike} of the lighter picture's ink); it is named for its first picture.
- Raw pixels at 16 x 16 and logistic regression, accuracy on test: {image_accuracy}.

{image_numbers}
"""


def write_licences(root: Path, versions: dict[str, str], out: Path) -> None:
    """LICENSES.md, with the numbers of the files that are there."""
    passages, (rows, pixels) = read_prose(out), read_pictures(out)
    texts = [passage["text"] for passage in passages]
    words = make_pipeline(TfidfVectorizer(sublinear_tf=True, min_df=2), LogisticRegression(C=10, max_iter=300))
    colours = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    facts = {
        "fewest": FEWEST_WORDS,
        "most": MOST_WORDS,
        "side": SIDE,
        "level": LEVEL,
        "alike": ALIKE,
        "raw_bytes": sum(len(text.encode()) for text in texts),
        "text_bytes": (out / "text" / "prose.jsonl.gz").stat().st_size,
        "zip_bytes": (out / "images" / "emoji.zip").stat().st_size,
        "csv_bytes": (out / "images" / "emoji.csv").stat().st_size,
        "text_numbers": numbers(passages),
        "image_numbers": numbers(rows),
        "text_accuracy": accuracy(words, texts, passages),
        "nameless_accuracy": accuracy(words, without_names(texts), passages),
        "image_accuracy": accuracy(colours, pixels, rows),
    }
    page = LICENCES.format(**facts, **versions)
    print(page)
    for package in versions:
        notice = (root / "usr/share/doc" / package / "copyright").read_text(encoding="utf-8").strip()
        lines = "\n".join(line.rstrip() for line in notice.splitlines())
        page += f"\n## Copyright file of {package}\n\n```text\n{lines}\n```\n"
    (out / "LICENSES.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
