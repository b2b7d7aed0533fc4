"""What a file of biosignals says of itself, in whatever format."""

from typing import NamedTuple


class Header(NamedTuple):
    """A file's own words, without its samples.

    Args:
        leads: as the file spells them, one a column; None where it doesn't name them.
        units: one a column; None where it doesn't say.
        rate: in Hz; None where it doesn't say.
        length: samples of a lead; None where the size of its files says it.
        files: other files of the same folder that belong to it: signals, headers of segments.
        comments: free text.
    """

    leads: tuple[str, ...] | None
    units: tuple[str, ...] | None
    rate: float | None
    length: int | None
    files: tuple[str, ...] = ()
    comments: tuple[str, ...] = ()
