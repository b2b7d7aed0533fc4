"""Weights of transformers' ViTModel in a backbone: the same latents, and the same tensors on the way out."""

import pytest
import torch
from torch.testing import assert_close
from transformers import ViTConfig, ViTModel

from mmpt.encoders.image import Image
from mmpt.errors import CheckpointError, ConfigError
from mmpt.export.timm import timm_pixels
from mmpt.export.vit import from_vit, timm_names, to_vit

SHAPE = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96}
REST = {"image_size": 32, "patch_size": 4, "layer_norm_eps": 1e-6}


@pytest.fixture
def backbone(image, backbone_of):
    modality = Image(image.facts, size=32, patch=4, positions="learned")
    return backbone_of({"image": modality}, width=24, depth=2, heads=3)


def vit(randomised, **changes):
    return randomised(ViTModel(ViTConfig(**{**SHAPE, **REST, **changes}), add_pooling_layer=False), 3).eval()


def test_a_backbone_with_weights_of_a_vit_computes_the_same(backbone, randomised, full_contents, batch_of):
    peer, content = vit(randomised), full_contents("image")
    from_vit(backbone, peer)
    encoder = backbone.encoders["image"]
    theirs = peer(timm_pixels(content.values, encoder.mean, encoder.std)).last_hidden_state
    assert_close(backbone(batch_of(image=content))["image"].x, theirs, rtol=0, atol=1e-5)


def test_weights_of_a_vit_leave_as_they_came(backbone, randomised):
    peer = vit(randomised)
    from_vit(backbone, peer)
    out = to_vit(backbone)[0].state_dict()
    assert out.keys() == peer.state_dict().keys()
    assert all(torch.equal(out[name], value) for name, value in peer.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"hidden_act": "relu"}, "has hidden_act relu, a trunk has only gelu"),
        ({"qkv_bias": False}, "has qkv_bias False, a trunk has only True"),
        (
            {"num_attention_heads": 2},
            "the transformers model has 2 blocks, 2 heads and norm_eps 1e-06, this trunk 2, 3",
        ),
        ({"layer_norm_eps": 1e-5}, "norm_eps 1e-05, this trunk 2, 3 and 1e-06; set trunk.depth"),
        ({"num_hidden_layers": 3}, "has 3 blocks, 3 heads and norm_eps 1e-06, this trunk 2, 3"),
        ({"num_hidden_layers": 1}, "has 1 blocks"),
    ],
)
def test_a_vit_that_does_not_fit_is_refused(backbone, randomised, changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        from_vit(backbone, vit(randomised, **changes))


def test_another_size_is_refused_naming_the_weights(backbone, randomised):
    with pytest.raises(CheckpointError, match=r"weights 'encoders\.image\.position' have shape \(17, 24\)"):
        from_vit(backbone, vit(randomised, image_size=16))


@pytest.mark.parametrize("name", ["layers.0.attention.gate.weight", "adapter.weight"])
def test_weights_without_a_place_are_refused_by_their_name(backbone, randomised, name):
    weights = vit(randomised).state_dict()
    with pytest.raises(
        ConfigError, match=f"the transformers model has weights '{name}', which a backbone has no place"
    ):
        timm_names({**weights, name: torch.ones(1)})
    del weights["layers.1.attention.k_proj.bias"]
    with pytest.raises(ConfigError, match=r"no weights 'layers\.1\.attention\.k_proj\.bias'"):
        timm_names(weights)


def test_pooler_and_mask_token_stay_behind(backbone, randomised):
    config = ViTConfig(**{**SHAPE, **REST})
    whole = randomised(ViTModel(config, add_pooling_layer=True, use_mask_token=True), 3)
    from_vit(backbone, whole)
    assert torch.equal(to_vit(backbone)[0].layernorm.weight, whole.layernorm.weight)
