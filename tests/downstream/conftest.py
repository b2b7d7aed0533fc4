"""What the downstream tests share: a labelled data set and a run over it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import tones
from walks import make_run, prose, walk

from mmpt.data.tokenizer import train_tokenizer
from mmpt.data.writer import ShardWriter


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer") / "own"
    train_tokenizer([prose(n % 2, n) for n in range(100)], folder, vocabulary=400, algorithm="bpe")
    return folder


@pytest.fixture(scope="session")
def write_shards(tokenizer: Path) -> Callable[..., Path]:
    """Makes a data set of samples."""

    def write(folder: Path, samples: list[dict], **fields: str) -> Path:
        declared = fields or {"image": "png", "text": "txt", "labels": "json"}
        with ShardWriter(folder, declared, tokenizer=tokenizer if "text" in declared else None) as writer:
            for sample in samples:
                writer.write(sample)
        return folder

    return write


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory, write_shards: Callable[..., Path]) -> Path:
    return write_shards(tmp_path_factory.mktemp("data") / "walks", [walk(number) for number in range(300)])


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "small", shards)


@pytest.fixture(scope="session")
def tone_shards(tmp_path_factory: pytest.TempPathFactory, write_shards: Callable[..., Path]) -> Path:
    return write_shards(tmp_path_factory.mktemp("data") / "tones", [tones.tone(n) for n in range(150)], **tones.FIELDS)


@pytest.fixture(scope="session")
def tone_run(tmp_path_factory: pytest.TempPathFactory, tone_shards: Path) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "tones", tone_shards, text=tones.RECIPE)
