"""Weights of timm by the name of their architecture, and folders of its hub and of `mmpt export`."""

import json
import shutil
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from mmpt.errors import CheckpointError, ConfigError
from mmpt.export import command
from mmpt.export.timm import timm_pixels, to_timm
from tests.conftest import picture
from tests.foreign.models import loaded, shaken
from tests.foreign.test_foreign_latents import batch_of

SMALL: dict[str, Any] = {"img_size": 32}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Of timm's own small model for tests, and the model."""
    peer = shaken(timm.create_model("test_vit", num_classes=3, **SMALL))
    file = tmp_path_factory.mktemp("timm") / "x.safetensors"
    save_file({name: value.contiguous() for name, value in peer.state_dict().items()}, file)
    return file, peer


def latents(encoder):
    batch, content = batch_of(encoder, "image", [picture(number) for number in range(2)])
    own = encoder.backbone.encoders["image"]
    return encoder.backbone(batch)["image"].x, timm_pixels(content.values, own.mean, own.std)


def test_a_state_dict_and_a_name_compute_the_same_and_leave_as_they_came(weights):
    file, peer = weights
    encoder = loaded("test_vit", weights=file)
    assert encoder.modalities["image"].size == 32  # of the table of positions, not the architecture's usual 160
    ours, pixels = latents(encoder)
    assert_close(ours, peer.forward_features(pixels), rtol=0, atol=1e-5)
    out = to_timm(encoder.backbone).state_dict()
    assert out.keys() | set(encoder.origin.left) == peer.state_dict().keys()
    assert all(torch.equal(value, peer.state_dict()[name]) for name, value in out.items())
    assert set(encoder.origin.left) == {"head.weight", "head.bias"}


def test_a_folder_of_the_hub_is_read_alone(weights, tmp_path):
    file, peer = weights
    shutil.copy(file, tmp_path / "model.safetensors")
    config = {
        "architecture": "test_vit",
        "num_classes": 3,
        "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]},
    }
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    encoder = loaded(tmp_path)
    assert torch.equal(encoder.backbone.encoders["image"].mean, torch.tensor([0.1, 0.2, 0.3]))
    ours, pixels = latents(encoder)
    assert_close(ours, peer.forward_features(pixels), rtol=0, atol=1e-5)


def test_an_export_of_ours_comes_back(weights, tmp_path):
    shutil.copy(weights[0], tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_vit"}), encoding="utf-8")
    first = loaded(tmp_path)
    for to in ("timm", "transformers", "safetensors"):
        command.export(tmp_path, tmp_path / to, to=to)
        again = loaded(tmp_path / to).backbone.state_dict()
        for name, value in first.backbone.state_dict().items():
            tolerance = 1e-6 if name.endswith(("mean", "std")) else 0  # a JSON file rounds those
            assert_close(again[name], value, rtol=0, atol=tolerance, msg=f"{to}: {name}")


def test_what_is_no_plain_vit_is_refused(weights, tmp_path):
    with pytest.raises(ConfigError, match="timm has no such architecture"):
        loaded("vit_teeny", weights=weights[0])
    with pytest.raises(ConfigError, match=r"is a .* of timm, and only a plain VisionTransformer can be loaded"):
        loaded("test_resnet", weights=weights[0])
    with pytest.raises(CheckpointError, match=r"x\.pth: expected a \.safetensors file"):
        loaded("test_vit", weights=tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"there is no recipe\.yaml, so this is not a run folder, and no config"):
        loaded("test_vit")
