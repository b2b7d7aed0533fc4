"""Folders of transformers and weights of timm, read by `mmpt.load`, compute what their own libraries compute."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import mmpt
from mmpt.export.hubert import waves_of
from mmpt.export.timm import timm_pixels
from tests.conftest import SENTENCES, picture
from tests.foreign.models import MODELS, made

TEXTS = [name for name in MODELS if "bert" in name and "hubert" not in name]
IMAGES = [name for name in MODELS if "vit" in name]
WAVES = [name for name in MODELS if "hubert" in name or "wav2vec2" in name]


def batch_of(encoder, stream, values):
    modality = encoder.modalities[stream]
    rows = [[modality.read(modality.convert(value), 0, modality.limit, None)] for value in values]
    content = modality.collate(rows, None)
    uid = torch.arange(len(rows))
    return mmpt.downstream.encoder.Batch({stream: content}, uid, torch.zeros_like(uid), "tests", 0), content


@pytest.mark.parametrize("name", TEXTS)
def test_texts_of_several_lengths(tmp_path, tokenizers, name):
    peer = made(name, tmp_path, tokenizers(name))
    encoder = mmpt.load(tmp_path, device="cpu")
    batch, content = batch_of(encoder, "text", SENTENCES[:4])
    assert not content.valid.all()
    theirs = peer(input_ids=content.values, attention_mask=content.valid.long()).last_hidden_state
    ours = encoder.backbone(batch)["text"].x
    assert_close(ours[content.valid], theirs[content.valid], rtol=0, atol=1e-5)
    alone, short = batch_of(encoder, "text", SENTENCES[:1])
    length = int(short.valid.sum())
    theirs = peer(input_ids=short.values[:, :length]).last_hidden_state
    assert_close(encoder.backbone(alone)["text"].x[:, :length], theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", IMAGES)
def test_pictures(tmp_path, name):
    peer = made(name, tmp_path)
    encoder = mmpt.load(tmp_path, device="cpu")
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


@pytest.mark.parametrize("name", WAVES)
def test_recordings_of_several_lengths(tmp_path, name):
    peer = made(name, tmp_path)
    encoder = mmpt.load(tmp_path, device="cpu")
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
