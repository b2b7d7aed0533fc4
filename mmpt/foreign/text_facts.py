"""What a folder's tokenizer says of a text stream."""

from pathlib import Path
from typing import Any

from mmpt.data.tokenizer import tokenizer_facts
from mmpt.encoders import Facts
from mmpt.errors import CheckpointError, DataError


def text_facts(folder: Path, vocabulary: int) -> Facts:
    """Facts of a text field with the folder's tokenizer and a table of `vocabulary` rows.

    Raises:
        CheckpointError: no fast tokenizer with a mask token, or one with more tokens than the table has rows.
    """
    folder = folder.resolve()
    if not (folder / "tokenizer.json").exists():
        raise CheckpointError(
            f"{folder}: there is no tokenizer.json, and without its tokenizer a text model can't be used; put the "
            f"model's tokenizer there (AutoTokenizer.from_pretrained(...).save_pretrained('{folder}'))"
        )
    try:
        values: dict[str, Any] = tokenizer_facts(folder)
    except DataError as error:
        raise CheckpointError(str(error)) from error
    missing = [name for name in ("bos", "eos", "pad", "mask") if values[name] is None]
    if missing:
        raise CheckpointError(f"{folder}: the tokenizer has no {missing[0]} token, which a text stream needs")
    if values["vocabulary"] > vocabulary:
        raise CheckpointError(
            f"{folder}: the tokenizer has {values['vocabulary']} tokens and the model {vocabulary} rows for them; they "
            "don't belong together"
        )
    return Facts(folder.parent, {**values, "vocabulary": vocabulary})  # rows without a token are never looked up
