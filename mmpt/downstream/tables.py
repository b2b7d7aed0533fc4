"""Files that tables are written to."""

from pathlib import Path

from mmpt.errors import DataError


def check_table(out: Path, *endings: str) -> None:
    """Before anything is computed: a file can stand there; folders on the way to it are made when it is written.

    Raises:
        DataError: another ending, a folder of that name, or a file where a folder has to be.
    """
    if out.suffix not in endings:
        raise DataError(f"{out}: expected a file that ends in {' or '.join(endings)}")
    if out.is_dir():
        raise DataError(f"{out}: is a folder; choose another name")
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not above.is_dir():
        raise DataError(f"{out}: {above} is a file, and would have to be a folder; choose another name")
