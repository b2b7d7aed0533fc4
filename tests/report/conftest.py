import shutil

import numpy as np
import pytest
from captions import RECIPE
from PIL import Image, ImageDraw

from mmpt.build import build_modalities, build_model, build_sources, facts_of
from mmpt.config import parse_settings
from mmpt.data.tokenizer import train_tokenizer
from mmpt.data.writer import ShardWriter
from mmpt.downstream.pretrained import load_pretrained
from mmpt.settings import Recipe
from mmpt.training import checkpoint
from mmpt.training.pretrain import Record
from mmpt.training.run import prepare

WORDS = ["the", "sea", "was", "calm", "small", "ship", "harbour", "lantern", "bread", "letter", "winter", "song"]


def passage(number):
    chosen = np.random.default_rng(number).choice(WORDS, 12)
    return " ".join([*chosen[:6], "<script>alert('&amp;')</script>", *chosen[6:]])


def picture(number):
    generator = np.random.default_rng(number)
    ground, ink = (tuple(int(c) for c in generator.integers(0, 256, 3)) for _ in range(2))
    image = Image.new("RGB", (20, 16), ground)
    ImageDraw.Draw(image).ellipse((2, 2, 12, 12), fill=ink)
    return image


@pytest.fixture(scope="session")
def report_shards(tmp_path_factory):
    """Passages that hold markup, and drawn pictures with captions; half of each in the validation split."""
    folder = tmp_path_factory.mktemp("report-shards")
    train_tokenizer([passage(n) for n in range(40)], folder / "tokenizer", vocabulary=320, algorithm="bpe")
    with ShardWriter(folder / "text", {"text": "txt"}, tokenizer=folder / "tokenizer") as writer:
        for n in range(20):
            writer.write({"text": passage(n), "__split__": ("train", "validation")[n % 2]})
    fields = {"image": "png", "text": "txt"}
    with ShardWriter(folder / "images", fields, tokenizer=folder / "tokenizer") as writer:
        for n in range(20):
            caption = {} if n % 4 == 3 else {"text": f"a disc of {WORDS[n % 9]}"}
            writer.write({"image": picture(n), **caption, "__split__": ("train", "validation")[n % 2]})
    return folder


@pytest.fixture(scope="session")
def small_run(report_shards, tmp_path_factory):
    """What pretraining would leave after its last step: fresh weights, invented figures."""
    run = tmp_path_factory.mktemp("runs") / "small & <b>odd"
    recipe = parse_settings(RECIPE.replace("SHARDS", str(report_shards)), [], Recipe)
    facts = facts_of(recipe)
    modalities = build_modalities(recipe.streams, facts)
    prepare(run, recipe, facts, build_sources(recipe, modalities))
    weights = {name: value.clone() for name, value in build_model(recipe, modalities).state_dict().items()}
    checkpoint.commit(run / "checkpoints", checkpoint.Saved(weights, {}, {"step": 8}))
    record = Record(run, 0)
    for step in range(8):
        source = ("prose", "captioned")[step % 2]
        losses = {"text/loss": 5.0 - step / 4, **({"image/loss": 1.25 - step / 10} if step % 2 else {})}
        record.write(step, step + 1, source, {**FIGURES, "learning_rate": 1e-3 * (1 - step / 8), **losses})
    record.close()
    return run


FIGURES = {
    "gradient_norm": 1.5,
    "skipped_updates": 0.0,
    "bad_samples": 0.0,
    "samples_per_second": 40.0,
    "tokens_per_second": 1000.0,
    "seconds_per_step": 0.5,
    "padding_share": 0.25,
    "data_wait_share": 0.125,
}


@pytest.fixture
def run(small_run, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(small_run, tmp_path / small_run.name)


@pytest.fixture(scope="session")
def pretrained(small_run):
    return load_pretrained(small_run)
