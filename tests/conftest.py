"""What every test may use: tiny modalities over a real tokenizer, and contents with all that makes rows hard."""

import os
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from mmpt.config import component
from mmpt.data.source import row_draw
from mmpt.encoders import Facts
from mmpt.encoders.image import Image
from mmpt.encoders.text import Text
from mmpt.model import Backbone
from mmpt.tokens import Batch
from mmpt.trunk import Trunk
from tests.encoders.ecg_material import ecg_modalities, ecg_values
from tests.encoders.labs_material import labs_modality, labs_values
from tests.encoders.speech_material import speech_modalities, speech_values
from tests.encoders.video_material import video_modality, video_values

torch.set_num_threads(1)


def pytest_configure(config):
    """What `--no-loadscope-reorder` says: workers take files in the order below."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """For several workers, files of many slow tests first: near the end a short file keeps nobody waiting."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    every = Counter(item.path for item in items)
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (-slow[item.path], -every[item.path], item.path))


# Jane Austen, Persuasion (1817) and Emma (1815): public domain
SENTENCES = (
    "She had been forced into prudence in her youth, she learned romance as she grew older.",
    "You pierce my soul. I am half agony, half hope.",
    "There could have been no two hearts so open, no tastes so similar, no feelings so in unison.",
    "If I loved you less, I might be able to talk about it more.",
    "Seldom, very seldom, does complete truth belong to any human disclosure.",
    "Silly things do cease to be silly if they are done by sensible people in an impudent way.",
    "One half of the world cannot understand the pleasures of the other.",
    "All the privilege I claim for my own sex is that of loving longest, when existence or when hope is gone.",
)
CLUSTERS = 7
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


@pytest.fixture(scope="session")
def text_facts(tmp_path_factory):
    """Facts of a text field whose byte-level BPE was trained on the sentences."""
    folder = tmp_path_factory.mktemp("facts")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    (folder / "tokenizer").mkdir()
    tokenizer.save(str(folder / "tokenizer" / "tokenizer.json"))
    ids = np.concatenate([tokenizer.encode(sentence).ids for sentence in SENTENCES])
    counts = np.bincount(ids, minlength=tokenizer.get_vocab_size()).tolist()
    values = {"tokenizer": "tokenizer", "vocabulary": len(counts)}
    values |= {name: number for number, name in enumerate(("bos", "pad", "eos", "unk", "mask"))}
    return Facts(folder, values, {"token_counts": counts})


@pytest.fixture(scope="session")
def text(text_facts):
    return Text(text_facts, max_length=64)


@pytest.fixture(scope="session")
def image(tmp_path_factory):
    """64 patches of 4 x 4."""
    statistics = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}
    return Image(Facts(tmp_path_factory.mktemp("image"), {}, statistics), size=32, patch=4)


@pytest.fixture(scope="session")
def modalities(text, image, tmp_path_factory):
    """Every modality, by the name of its file; a new one joins here and in `values`."""
    folder = tmp_path_factory.mktemp("facts")
    others = {
        "labs": labs_modality(folder),
        "video": video_modality(folder),
        **ecg_modalities(folder),
        **speech_modalities(folder),
    }
    every = {"text": text, "image": image, **others}
    return {name: replace(own, facts=with_unit_facts(own.facts)) for name, own in every.items()}


def with_unit_facts(facts):
    """As a data set with labels of a codebook has them."""
    units = {"codebook": "0", "clusters": CLUSTERS, "rate": None, "stream": "any", "features": {}}
    return replace(facts, values={**facts.values, "units": [units], "scores": True})


def labelled(content):
    """With some unit and some score for every token."""
    units = (3 * content.place + content.segment) % CLUSTERS
    return content._replace(units=units.unsqueeze(2), scores=((units * 5 + content.place) % 11 + 1) / 11)


def picture(number):
    """A coarse random picture, so that neighbouring patches are alike."""
    pixels = np.random.default_rng(number).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    return Picture.fromarray(pixels).resize((40, 36), Picture.Resampling.BILINEAR)


@pytest.fixture(scope="session")
def values():
    """Decoded fields by modality, as a data set would give them."""
    texts = [*SENTENCES, "A </s> or a <mask> that stands in a document is text like any other."]
    pictures = [picture(number) for number in range(8)]
    ecg, speech = ecg_values(), speech_values()
    signals = {"ecg": ecg, "ecg_stem": ecg, "speech": speech, "speech_mel": speech}
    return {"text": texts, "image": pictures, "labs": labs_values(), "video": video_values(), **signals}


@pytest.fixture(scope="session")
def documents(modalities, values):
    """`documents("text")`: what `read` makes of each value."""
    return lambda name: [modalities[name].read(value, 0, modalities[name].limit, None) for value in values[name]]


@pytest.fixture(scope="session")
def contents(modalities, documents):
    """`contents("text")`: rows of one document, several where the modality packs, one token, and an absent one."""

    def make(name):
        first, second, third, fourth, *_ = documents(name)
        rows = [[first], [second], [], [third], [fourth]]
        if name == "text":
            rows += [
                [first[:20], second[1:9], third[1:30]],
                [np.r_[first[:2], first[-1:]]],
                [np.r_[first[:1], first[-1:]]],
            ]
        return labelled(modalities[name].collate(rows, None))

    return make


@pytest.fixture(scope="session")
def full_contents(modalities, documents):
    """`full_contents("text")`: rows without padding."""

    def make(name):
        rows = documents(name)
        if name.startswith(("ecg", "speech")):  # what stands first differs in length and leads
            return labelled(modalities[name].collate([[row] for row in rows[4:]], None))
        shortest = min(map(len, rows))
        rows = [[np.r_[row[: shortest - 1], row[-1:]]] for row in rows]
        return labelled(modalities[name].collate(rows, shortest if name == "text" else None))

    return make


@pytest.fixture(scope="session")
def batch_of():
    """`batch_of(text=content, image=content, seed=0)`: a batch whose rows have draws of their own."""

    def make(seed=0, **streams):
        rows = len(next(iter(streams.values())).valid)
        uid, epoch = torch.arange(rows), torch.zeros(rows, dtype=torch.int64)
        return Batch(streams, uid, row_draw(seed, epoch, uid), "tests", 0)

    return make


@pytest.fixture(scope="session")
def randomised():
    """`randomised(module, seed)`: the module with every parameter drawn anew, biases and norms too."""

    def make(module, seed=0):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator) * 0.15
                parameter.copy_(noise + 1 if "norm" in name.lower() and name.endswith("weight") else noise)
        return module

    return make


@pytest.fixture(scope="session")
def backbone_of(randomised):
    """`backbone_of({"text": text}, depth=3)`: a tiny backbone with random weights."""

    def make(modalities, seed=0, **settings):
        settings = {"width": 16, "depth": 2, "heads": 2, **settings}
        trunk = component(Trunk, "transformer", **settings).build(len(modalities))
        return randomised(Backbone(modalities, trunk), seed).eval()

    return make
