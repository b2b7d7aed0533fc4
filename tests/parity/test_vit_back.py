"""Weights of transformers' ViTModel in a backbone: the same latents, and the same bytes on the way out."""

import pytest
import torch
from torch.testing import assert_close
from transformers import ViTConfig, ViTModel

from mmpt.encoders.image import Image
from mmpt.errors import CheckpointError, ConfigError
from mmpt.export.timm import timm_pixels
from mmpt.export.vit import from_vit, to_vit

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
        ({"num_attention_heads": 2}, "the transformers model has 2 heads"),
    ],
)
def test_a_vit_that_does_not_fit_is_refused(backbone, randomised, changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        from_vit(backbone, vit(randomised, **changes))


def test_another_size_is_refused_naming_the_weights(backbone, randomised):
    with pytest.raises(CheckpointError, match=r"weights 'encoders\.image\.position' have shape \(17, 24\)"):
        from_vit(backbone, vit(randomised, image_size=16))


def test_a_vit_of_another_depth_is_refused(backbone, randomised):
    with pytest.raises(ConfigError, match=r"weights 'blocks\.2.*which a backbone has no place for"):
        from_vit(backbone, vit(randomised, num_hidden_layers=3))
    with pytest.raises(ConfigError, match=r"no weights 'blocks\.1"):
        from_vit(backbone, vit(randomised, num_hidden_layers=1))
