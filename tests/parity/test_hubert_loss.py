"""Masked units: loss and gradients are those of torchaudio's pretraining model, given weights, masks and units."""

import importlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from mmpt.tokens import Content

FOLDER = Path(__file__).parents[2] / "benchmarks"
CLOSE = {"rtol": 1e-5, "atol": 1e-7, "check_dtype": False}  # our logits and penalty are of single precision
TINY = {"width": 32, "depth": 2, "channels": 16, "classes": 10, "final": 16, "rows": 2, "batches": 1}


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)  # as for `python benchmarks/speech_step.py`
        yield importlib.import_module("speech_step")


def both_in_double(bench: ModuleType, **sizes: Any) -> tuple[Any, Any, partial, partial]:
    """Our model and torchaudio's with the same weights, and the loss of each: rounding hides nothing."""
    torch.manual_seed(0)
    ours, theirs = (side.losses[0] for side in bench.contenders_of(bench.Sizes(**sizes, **TINY), 0))
    model, (peer, waves, *others) = ours.args[0].double(), theirs.args
    return model, peer.double(), ours, partial(theirs.func, peer, waves.double(), *others)


@pytest.mark.parametrize(
    ("norm", "seconds"), [("layer", (0.6, 1.5)), ("group", (1.0, 1.0))], ids=["padded, layer norm", "whole, group norm"]
)
def test_loss_and_gradients_are_those_of_torchaudio(bench: ModuleType, norm: str, seconds: tuple[float, float]) -> None:
    model, peer, ours, theirs = both_in_double(bench, norm=norm, seconds=seconds)
    mine, other = ours(), theirs()
    assert_close(mine, other, rtol=1e-6, atol=1e-6, check_dtype=False)
    mine.backward()
    other.backward()
    part, body = model.objective.part("speech"), peer.wav2vec2.encoder
    pairs = {
        "codes": (part.predictor.codes, peer.logit_generator.label_embeddings),
        "head": (part.predictor.projection.weight, peer.logit_generator.final_proj.weight),
        "mask": (part.corruption.vector, peer.mask_generator.mask_embedding),
        "projection": (model.backbone.encoder("speech").projection.weight, body.feature_projection.projection.weight),
        "block": (model.backbone.trunk.blocks[0].norm1.weight, body.transformer.layers[0].layer_norm.weight),
    }
    for name, (own, given) in pairs.items():
        assert own.grad is not None, name
        assert given.grad.abs().max() > 1e-6, f"{name}: nothing to compare"
        assert_close(own.grad, given.grad, **CLOSE, msg=lambda text, name=name: f"{name}: {text}")
    assert_close(*first_convolutions(model, peer), **CLOSE)


def first_convolutions(model: Any, peer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of the first convolution's kernel, in the same order."""
    given = peer.wav2vec2.feature_extractor.conv_layers[0].conv.weight.grad
    return model.backbone.encoder("speech").stem.layers[0].weight.grad, given.permute(2, 1, 0).flatten(0, 1)


def test_shown_frames_and_the_size_of_features_count_as_they_do_in_hubert(bench: ModuleType) -> None:
    model, peer, ours, theirs = both_in_double(bench, seconds=(1.0, 1.0))
    part = model.objective.part("speech")
    part.shown_weight, part.feature_penalty = 0.4, 10.0
    waves, lengths, units, hidden = theirs.args[1:]
    peer.mask_generator.hidden, peer.logit_generator.skip_nomask = hidden, False
    masked, unmasked, penalty = peer(waves, units, lengths)
    right = [torch.zeros(len(logits), dtype=torch.int64) for logits in (masked, unmasked)]
    other = cross_entropy(masked, right[0], reduction="sum") + 0.4 * cross_entropy(unmasked, right[1], reduction="sum")
    other = (other + 10 * penalty * len(masked)) / len(masked)
    mine = ours()
    assert_close(mine, other, rtol=1e-6, atol=1e-6, check_dtype=False)
    assert float(10 * penalty.detach()) > 1e-3 * float(mine.detach())  # it is there to be seen
    mine.backward()
    other.backward()
    assert_close(*first_convolutions(model, peer), **CLOSE)


def test_the_size_of_padding_s_features_does_not_count(bench: ModuleType) -> None:
    torch.manual_seed(0)
    ours, _ = bench.contenders_of(bench.Sizes(seconds=(0.6, 1.5), **TINY), 0)
    model, batch = ours.losses[0].args
    encoder, content = model.backbone.encoder("speech"), batch.streams["speech"]
    counts = content.valid.sum(1)
    assert counts.min() < counts.max()
    alone = []
    for row, count in enumerate(counts.tolist()):
        own = (tensor[row : row + 1, :count] for tensor in content[:5])
        alone.append(encoder(Content(*own, full=True)).penalty * count)
    assert_close(encoder(content).penalty, sum(alone) / counts.sum())
