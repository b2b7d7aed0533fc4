"""Picture sources -> records: a folder or a zip, and tables of captions and labels joined to it."""

from collections.abc import Sequence
from pathlib import Path

from mmpt.data.builders.files import FileRecord, file_records, joined_rows, list_files, read_table
from mmpt.data.shard import Part

PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def picture_records(source: Path, tables: Sequence[Path], rejected: Part) -> list[FileRecord]:
    """Every picture in a fixed order, with its row; rows without a picture are noted in `rejected`.

    Raises:
        DataError: the source or a table can't be used at all.
    """
    sizes = list_files(source, PICTURES, "picture", rejected)
    joined = [read_table(path, rejected) for path in tables]
    return file_records(source, sizes, joined_rows(sizes, joined, "picture", rejected))
