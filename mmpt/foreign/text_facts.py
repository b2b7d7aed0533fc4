"""What a folder's tokenizer says of a text stream."""

from pathlib import Path
from typing import Any

from mmpt.data.tokenizer import token_ids, tokenizer_facts
from mmpt.encoders import Facts
from mmpt.encoders.text import Text
from mmpt.errors import CheckpointError, DataError

SENTENCES = ("A wren sang at dawn.", "Ça va, señor Łukasz?", "x = 3.14; // 北京 and  two  spaces")


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


def same_tokens(one: Text, other: Text) -> bool:
    """Whether two streams' ids stand for the same: vocabulary, special tokens, and how a few sentences are cut."""
    if one.facts.values.get("sha256", 0) == other.facts.values.get("sha256", 1):
        return True
    words = (part.tokenizer.get_vocab(with_added_tokens=True) for part in (one, other))
    special = ([part.special(name) for name in ("bos", "eos", "pad", "mask")] for part in (one, other))
    cuts = ([token_ids(part.tokenizer, text) for text in SENTENCES] for part in (one, other))
    return all(next(pair) == next(pair) for pair in (words, special, cuts))
