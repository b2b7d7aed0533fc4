"""The text field's tokenizer: trained on the training split, or taken from a local transformers folder."""

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from mmpt.errors import DataError

FOLDER = "tokenizer"
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")  # RoBERTa's order, so ids 0..4
ALGORITHMS = ("bpe", "wordpiece")
SMALLEST = 300  # 256 bytes, the special tokens and something to merge


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a data set; needs no transformers, so workers start fast.

    It neither cuts nor pads, and "<mask>" standing in a document is plain text, not the mask token.
    """
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def kept_tokenizer(folder: Path) -> Tokenizer:
    """The same, read once a process for as long as the file stays what it is."""
    return _kept(folder, (folder / "tokenizer.json").stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _kept(folder: Path, changed: int) -> Tokenizer:
    return read_tokenizer(folder)


def token_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text without special tokens around it: what the manifest's `length` counts."""
    return tokenizer.encode(text, add_special_tokens=False).ids


def train_tokenizer(texts: Iterable[str], folder: Path, *, vocabulary: int, algorithm: str) -> None:
    """Train on texts and write a folder that transformers' AutoTokenizer loads; the same bytes every time.

    Args:
        texts: training documents.
        folder: written as a whole or not at all.
        vocabulary: size at most, special tokens included.
        algorithm: `bpe` (byte-level, never unknown) or `wordpiece` (BERT's pieces, case kept).

    Raises:
        DataError: unknown algorithm, or a vocabulary too small to hold the alphabet.
    """
    if algorithm not in ALGORITHMS:
        raise DataError(f"tokenizer algorithm '{algorithm}' is not known; use {' or '.join(ALGORITHMS)}")
    if vocabulary < SMALLEST:
        raise DataError(f"a vocabulary of {vocabulary} is too small; use at least {SMALLEST}")
    tokenizer = _train_bpe(texts, vocabulary) if algorithm == "bpe" else _train_wordpiece(list(texts), vocabulary)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    from transformers import PreTrainedTokenizerFast

    names = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>", "unk_token": "<unk>"}
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", mask_token="<mask>", **names)
    _save(wrapped, folder)


def adopt_tokenizer(source: Path, folder: Path) -> None:
    """Copy a local transformers tokenizer; raises DataError if it is not a fast one with a mask token."""
    _save(_load(source), folder)


def tokenizer_facts(folder: Path) -> dict[str, Any]:
    """What the text field's facts say: vocabulary size, ids of the special tokens, checksum."""
    tokenizer = _load(folder)
    bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id
    eos = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    return {
        "tokenizer": folder.name,
        "vocabulary": len(tokenizer),
        "bos": bos,
        "eos": eos,
        "pad": tokenizer.pad_token_id,
        "mask": tokenizer.mask_token_id,
        "unk": tokenizer.unk_token_id,
        "sha256": hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest(),
    }


def _load(folder: Path) -> Any:
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such tokenizer folder")
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"{folder}: not a transformers tokenizer ({reason})") from error
    if not tokenizer.is_fast:
        raise DataError(f"{folder}: a slow tokenizer, which has no tokenizer.json; convert it to a fast one first")
    if tokenizer.mask_token_id is None:
        raise DataError(f"{folder}: the tokenizer has no mask token, which masked modelling needs")
    return tokenizer


def _save(tokenizer: Any, folder: Path) -> None:
    staged = folder.with_name(f".{folder.name}.staged")
    shutil.rmtree(staged, ignore_errors=True)
    tokenizer.save_pretrained(str(staged))
    shutil.rmtree(folder, ignore_errors=True)
    staged.replace(folder)


def _added(names: Iterable[str]) -> list[AddedToken]:
    # the mask stands for the word and the space before it, as in RoBERTa
    return [AddedToken(name, lstrip=name == "<mask>", normalized=False, special=True) for name in names]


def _train_bpe(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=_added(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _train_wordpiece(texts: list[str], vocabulary: int) -> Tokenizer:
    """Two steps, for the trainer numbers '##x' pieces in the order of a randomly seeded hash map.

    Handing them in as leading special tokens fixes their numbers and so the ties; the tokenizer is then made anew
    without them being special.
    """
    normalizer = normalizers.BertNormalizer(lowercase=False)
    words = pre_tokenizers.BertPreTokenizer()
    alphabet = list(_alphabet(texts, normalizer, limit=min(1000, vocabulary // 4)))
    fixed = [*SPECIAL, *alphabet, *(f"##{letter}" for letter in alphabet)]
    draft = Tokenizer(models.WordPiece(unk_token="<unk>"))
    draft.normalizer, draft.pre_tokenizer = normalizer, words
    trainer = trainers.WordPieceTrainer(
        vocab_size=max(vocabulary, len(fixed)), special_tokens=fixed, limit_alphabet=len(alphabet), show_progress=False
    )
    draft.train_from_iterator(texts, trainer)
    tokenizer = Tokenizer(models.WordPiece(draft.get_vocab(), unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, words
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(_added(SPECIAL))
    return tokenizer


def _alphabet(texts: list[str], normalizer: normalizers.Normalizer, limit: int) -> Iterator[str]:
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(normalizer.normalize_str(text))
    kept = sorted(counts, key=lambda letter: (-counts[letter], letter))[:limit]
    return iter(sorted(letter for letter in kept if not letter.isspace()))
