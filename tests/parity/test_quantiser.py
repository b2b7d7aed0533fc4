"""The quantiser is transformers' Wav2Vec2GumbelVectorQuantizer: codes, vectors, perplexity and its gradient."""

import pytest
import torch
from torch.testing import assert_close
from transformers import Wav2Vec2Config
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2GumbelVectorQuantizer

from mmpt.objectives.quantiser import Quantiser, diversity_loss, perplexity

GROUPS, CODES, SIZE, WIDTH = 2, 5, 12, 8


@pytest.fixture
def pair():
    config = Wav2Vec2Config(
        conv_dim=[WIDTH], conv_stride=[1], conv_kernel=[1], num_codevector_groups=GROUPS,
        num_codevectors_per_group=CODES, codevector_dim=SIZE,
    )  # fmt: skip
    theirs, ours = Wav2Vec2GumbelVectorQuantizer(config), Quantiser(WIDTH, GROUPS, CODES, SIZE)
    theirs.weight_proj.load_state_dict(ours.logits.state_dict())
    theirs.codevectors.data = ours.vectors.data.reshape(1, GROUPS * CODES, -1).clone()
    return ours, theirs


def test_likeliest_codes_and_their_perplexity_are_theirs(pair):
    ours, theirs = pair
    x, valid = torch.randn(3, 7, WIDTH), torch.rand(3, 7) > 0.4
    quantised = ours(x, None, 1.0)
    vectors, wanted = theirs.eval()(x, valid)
    assert_close(quantised.vectors, vectors, rtol=1e-5, atol=1e-6)
    hard = torch.nn.functional.one_hot(quantised.codes, CODES).float()
    assert_close(perplexity(hard, valid).sum(), wanted)


def test_drawn_codes_their_gradient_and_the_diversity_are_theirs(pair, monkeypatch):
    ours, theirs = pair
    x, valid = torch.randn(3, 7, WIDTH), torch.rand(3, 7) > 0.4
    lots = torch.rand(3, 7, GROUPS * CODES)
    draw = torch.Tensor.exponential_  # what torch's gumbel_softmax draws with: the noise is minus the log of it
    monkeypatch.setattr(torch.Tensor, "exponential_", lambda own: own.copy_(-lots.log().view(own.shape)))
    vectors, wanted = theirs.train()(x, valid)
    monkeypatch.setattr(torch.Tensor, "exponential_", draw)
    quantised = ours(x, -(-lots.log()).log(), float(theirs.temperature))
    assert_close(quantised.vectors, vectors, rtol=1e-5, atol=1e-5)
    assert not torch.equal(quantised.codes, ours(x, None, 1.0).codes)
    total = GROUPS * CODES
    assert_close(diversity_loss(quantised.shares, valid), (total - wanted) / total)
    weight = torch.randn(SIZE)
    (vectors @ weight).sum().backward()
    (quantised.vectors @ weight).sum().backward()
    assert_close(ours.logits.weight.grad, theirs.weight_proj.weight.grad, rtol=1e-4, atol=1e-5)
    assert_close(ours.vectors.grad.flatten(0, 1), theirs.codevectors.grad[0], rtol=1e-5, atol=1e-5)
