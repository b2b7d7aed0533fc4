"""No progress bars of transformers beside our own words."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_bars() -> Iterator[None]:
    """While it lasts transformers draws none; whoever has bars of their own there has them again afterwards."""
    from transformers.utils import logging

    before = logging.set_tqdm_hook(lambda _factory, args, named: logging.EmptyTqdm(*args, **named))
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)
