"""Folders of transformers and weights of timm, read by `mmpt.load`, compute what their own libraries compute."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from mmpt.export.hubert import waves_of
from mmpt.export.timm import timm_pixels
from mmpt.foreign.donor import read_family
from mmpt.foreign.entries import given
from mmpt.tokens import Batch
from tests.conftest import SENTENCES, picture
from tests.foreign.models import MODELS, loaded, made

TEXTS = [name for name in MODELS if "bert" in name and "hubert" not in name]
IMAGES = [name for name in MODELS if "vit" in name]
WAVES = [name for name in MODELS if "hubert" in name or "wav2vec2" in name]


def batch_of(encoder, stream, values):
    modality = encoder.modalities[stream]
    rows = [[modality.read(modality.convert(value), 0, modality.limit, None)] for value in values]
    content = modality.collate(rows, None)
    uid = torch.arange(len(rows))
    return Batch({stream: content}, uid, torch.zeros_like(uid), "tests", 0), content


def assert_leaves_as_it_came(folder, encoder):
    """All tensors of the folder come out of the backbone to the last bit, but those that were left behind."""
    ((_, modality),) = encoder.modalities.items()
    family, read = read_family(folder)
    ours = {f"backbone.{name}": value for name, value in encoder.backbone.state_dict().items()}
    out = given(family.entries(modality.facts), ours)
    before = "" if out.keys() <= read.tensors.keys() else family.inside[0]
    heads = {name for entry in family.objective_entries(modality.facts) for name in entry.theirs}
    heads |= {name.removeprefix(family.inside[0]) for name in heads}
    there = {before + name for name in out}
    assert there | set(encoder.origin.left) | heads >= read.tensors.keys()
    assert not there & set(encoder.origin.left)
    for name, value in out.items():
        theirs = read.tensors[before + name]
        if "token_type" in name:
            theirs = theirs[:1]
        if "position_embeddings.weight" in name:  # rows that no token looks at
            unused = len(theirs) - modality.max_length
            value, theirs = value[unused:], theirs[unused:]
        assert torch.equal(value, theirs), name


@pytest.mark.parametrize("name", TEXTS)
def test_texts_of_several_lengths(tmp_path, tokenizers, name):
    peer = made(name, tmp_path, tokenizers(name))
    encoder = loaded(tmp_path)
    batch, content = batch_of(encoder, "text", SENTENCES[:4])
    assert not content.valid.all()
    theirs = peer(input_ids=content.values, attention_mask=content.valid.long()).last_hidden_state
    ours = encoder.backbone(batch)["text"].x
    assert_close(ours[content.valid], theirs[content.valid], rtol=0, atol=1e-5)
    alone, short = batch_of(encoder, "text", SENTENCES[:1])
    length = int(short.valid.sum())
    theirs = peer(input_ids=short.values[:, :length]).last_hidden_state
    assert_close(encoder.backbone(alone)["text"].x[:, :length], theirs, rtol=0, atol=1e-5)
    assert_leaves_as_it_came(tmp_path, encoder)


@pytest.mark.parametrize("name", IMAGES)
def test_pictures(tmp_path, name):
    peer = made(name, tmp_path)
    encoder = loaded(tmp_path)
    batch, content = batch_of(encoder, "image", [picture(number) for number in range(3)])
    own = encoder.backbone.encoders["image"]
    pixels = timm_pixels(content.values, own.mean, own.std)
    assert torch.equal(own.mean, torch.tensor([0.4, 0.5, 0.6]))
    if name == "vit_mae":
        peer.config.mask_ratio = 0.0
        in_order = torch.arange(16.0).expand(3, -1)
        theirs = peer(pixels, noise=in_order).last_hidden_state
    else:
        theirs = peer(pixels).last_hidden_state
    assert_close(encoder.backbone(batch)["image"].x, theirs, rtol=0, atol=1e-5)
    assert_leaves_as_it_came(tmp_path, encoder)


@pytest.mark.parametrize("name", WAVES)
def test_recordings_of_several_lengths(tmp_path, name):
    peer = made(name, tmp_path)
    encoder = loaded(tmp_path)
    speech = encoder.modalities["speech"]
    assert speech.normalize_wave == ("large" in name)
    generator = np.random.default_rng(0)
    lengths = [speech.window + speech.hop * frames for frames in (60, 0, 23)]
    values = [((generator.standard_normal(length) * 0.1).astype(np.float32), 16000) for length in lengths]
    batch, content = batch_of(encoder, "speech", values)
    ours = encoder.backbone(batch)["speech"].x
    waves, real = waves_of(speech, content)
    if "large" in name:  # a group norm of transformers counts padding, so that only rows by themselves are defined
        theirs = peer(waves, attention_mask=real.long()).last_hidden_state
        assert_close(ours[content.valid], theirs[content.valid], rtol=0, atol=1e-5)
    for row, length in enumerate(lengths):
        theirs = peer(waves[row : row + 1, :length]).last_hidden_state[0]
        assert_close(ours[row][content.valid[row]], theirs, rtol=0, atol=1e-5)
    assert_leaves_as_it_came(tmp_path, encoder)


def test_defaults_are_those_of_transformers():
    from transformers import CONFIG_MAPPING

    from mmpt.config import find_parts
    from mmpt.foreign import Family

    for name, family in find_parts("mmpt.foreign", Family).items():
        if name == "timm":
            continue
        config = CONFIG_MAPPING[name.replace("a_p", "a-p")]()
        for setting, value in {**family.needs, **family.only}.items():
            if hasattr(config, setting):
                theirs = getattr(config, setting)
                theirs = tuple(theirs) if isinstance(theirs, list) else theirs
                assert (theirs or None) == (value or None), (name, setting)
