"""Files and folders that results are written to."""

from pathlib import Path

from mmpt.errors import DataError


def check_table(out: Path, *endings: str) -> None:
    """Before anything is computed: a new file can stand there; folders on the way to it are made when it is written.

    Raises:
        DataError: another ending, a file or folder of that name, or a file where a folder has to be.
    """
    if out.suffix not in endings:
        raise DataError(f"{out}: expected a file that ends in {' or '.join(endings)}")
    if out.is_dir():
        raise DataError(f"{out}: is a folder; choose another name")
    if out.exists():
        raise DataError(f"{out}: is there already; choose another name or remove it")
    check_way(out)


def check_folder(out: Path) -> None:
    """Before anything is computed: it is a folder or can be made; raises DataError where a file is in the way."""
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: is a file; choose another name")
    check_way(out)


def check_way(out: Path) -> None:
    """Folders on the way to it are there or can be made; raises DataError where one is a file."""
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not above.is_dir():
        raise DataError(f"{out}: {above} is a file, and would have to be a folder; choose another name")
