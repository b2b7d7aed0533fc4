"""Masked units: loss and gradients are those of torchaudio's pretraining model, given weights, masks and units."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.testing import assert_close

FOLDER = Path(__file__).parents[2] / "benchmarks"
TINY = {"width": 32, "depth": 2, "channels": 16, "classes": 10, "final": 16, "rows": 2, "batches": 1}


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)  # as for `python benchmarks/speech_step.py`
        yield importlib.import_module("speech_step")


@pytest.mark.parametrize(
    ("norm", "seconds"), [("layer", (0.6, 1.5)), ("group", (1.0, 1.0))], ids=["padded, layer norm", "whole, group norm"]
)
def test_loss_and_gradients_are_those_of_torchaudio(bench: ModuleType, norm: str, seconds: tuple[float, float]) -> None:
    torch.manual_seed(0)
    ours, theirs = bench.contenders_of(bench.Sizes(norm=norm, seconds=seconds, **TINY), 0)
    model, peer = ours.losses[0].args[0], theirs.losses[0].args[0]
    mine, other = ours.losses[0](), theirs.losses[0]()
    assert_close(mine, other, rtol=1e-5, atol=1e-5)
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
        assert_close(own.grad, given.grad, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
