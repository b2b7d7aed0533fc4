"""`mmpt build text`: documents -> tokenizer and shards."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mmpt.data.builders.documents import DocumentParser, TextRecord, text_files, text_records
from mmpt.data.builders.parallel import Draft
from mmpt.data.builders.steps import Work, build_data_set
from mmpt.data.builders.texts import LABELS, TEXT, text_members
from mmpt.data.encode import encode
from mmpt.data.manifest import Manifest
from mmpt.data.shard import Part
from mmpt.data.split import Shares, split_of
from mmpt.data.writer import DEFAULT_SHARES, SHARD_BYTES
from mmpt.errors import DataError


@dataclass(frozen=True)
class DocumentMaker:
    """Record -> sample, in any process."""

    parse: DocumentParser
    tokenizer_folder: Path | None

    def __call__(self, record: TextRecord) -> Draft:
        document = self.parse(record)
        members, tokens = text_members(document.text, self.tokenizer_folder)
        if document.labels:
            members["labels"] = encode(LABELS, document.labels)
        return Draft(members, document.group, tokens)


def build_text(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    tokenizer: str | Path | None = None,
    vocabulary: int = 8192,
    algorithm: str = "bpe",
    text_key: str = "text",
    label_key: str = "label",
    group_key: str = "group",
    processes: int = 1,
    samples_per_shard: int = 1000,
    shard_bytes: int = SHARD_BYTES,
    split: Shares = DEFAULT_SHARES,
    progress: bool = False,
) -> Manifest:
    """Build a text data set; run again after a kill, it goes on where it stopped.

    Args:
        sources: folders (every .txt and .md below is a document and a group of its own; the first sub-folder's name is
            its label), .txt or .md files, .jsonl or .jsonl.gz files (a document a line), .csv files (a document a row).
        out: new or empty folder, or one that the same call left half-built.
        tokenizer: a local transformers tokenizer folder with a fast tokenizer and a mask token; None trains one on the
            training split.
        vocabulary: of a trained tokenizer, special tokens included.
        algorithm: `bpe` (byte-level) or `wordpiece`.
        text_key: the document in a JSON line or table row.
        label_key: its label; every other key is kept in `labels` too.
        group_key: what keeps documents in one split; without it every document is a group of its own.
        processes: how many work; the result does not depend on it.
        samples_per_shard: inputs a shard at most, bad ones included.
        shard_bytes: bytes of input a shard at most.
        split: shares of train, validation and test among groups.
        progress: say on stderr how far it is.

    Raises:
        DataError: sources, settings or folder can't be used, or there is no good document.
    """
    work = Work(
        out, tokenizer, vocabulary, algorithm, (samples_per_shard, shard_bytes), processes, split, shown=progress
    )
    files = text_files([Path(source) for source in sources])
    parse = DocumentParser(text_key, label_key, group_key)
    plan = {
        "builder": "text",
        "sources": [str(source) for source in sources],
        "keys": [text_key, label_key, group_key],
    }
    return build_data_set(
        work,
        plan,
        [path for path, _ in files],
        text_records(files),
        partial(DocumentMaker, parse),
        texts=TrainingDocuments(files, parse, work.shares),
        fields={"text": TEXT},
        statistics=lambda parts: {},
        rejected=Part(),
        what="documents",
    )


class TrainingDocuments:
    """The texts of the training split, one by one; remembers what was bad and how many were good."""

    def __init__(self, files: Sequence[tuple[Path, str]], parse: DocumentParser, shares: Shares) -> None:
        self.bad, self.good, self.training = Part(), 0, 0
        self._files, self._parse, self._shares = files, parse, shares

    def __iter__(self) -> Iterator[str]:
        for record in text_records(self._files):
            try:
                document = self._parse(record)
            except DataError as error:
                self.bad.reject(record.place, str(error))
                continue
            self.good += 1
            if split_of(document.group, self._shares) == "train":
                self.training += 1
                yield document.text


def summary_lines(manifest: Manifest) -> list[str]:
    """For people: how long the documents are."""
    length = manifest.statistics["text"]["length"]
    return [f"documents of {length['min']} to {length['max']} tokens, median {length['median']}"]
