import pytest

from mmpt.data.tokenizer import train_tokenizer
from tests.conftest import SENTENCES


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory):
    """By kind of model: WordPiece for BERT, byte-level BPE for the others."""
    folder = tmp_path_factory.mktemp("tokenizers")
    train_tokenizer(SENTENCES, folder / "wordpiece", vocabulary=300, algorithm="wordpiece")
    train_tokenizer(SENTENCES, folder / "bpe", vocabulary=300, algorithm="bpe")
    return lambda name: folder / ("wordpiece" if name.startswith("bert") else "bpe")
