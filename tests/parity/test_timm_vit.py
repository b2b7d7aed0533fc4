"""An image-only backbone and timm's VisionTransformer are the same function."""

import re

import pytest
import torch
from timm.data import resolve_model_data_config
from torch.testing import assert_close

from mmpt.config import component
from mmpt.encoders.image import Image
from mmpt.errors import ConfigError
from mmpt.export.timm import timm_pixels, to_timm
from mmpt.trunk.feedforward import FeedForward
from mmpt.trunk.feedforward.dense import DenseFeedForward


@pytest.fixture(params=["learned", "sincos"])
def picture_backbone(request, image, backbone_of):
    modality = Image(image.facts, size=32, patch=4, positions=request.param)
    return backbone_of({"image": modality}, width=24, depth=3, heads=3)


def latents_of_both(backbone, peer, content, batch_of):
    encoder = backbone.encoders["image"]
    theirs = peer.forward_features(timm_pixels(content.values, encoder.mean, encoder.std))
    return backbone(batch_of(image=content))["image"].x, theirs


def test_timm_gives_the_same_latents_with_our_weights(picture_backbone, full_contents, batch_of):
    peer = to_timm(picture_backbone)
    assert_close(*latents_of_both(picture_backbone, peer, full_contents("image"), batch_of), rtol=0, atol=1e-5)


def test_any_feedforward_ratio_and_norm_eps_is_carried_over(image, backbone_of, full_contents, batch_of):
    dense = component(FeedForward, "dense", ratio=2.6)
    backbone = backbone_of({"image": image}, width=24, heads=2, feedforward=dense, norm_eps=1e-3)
    peer = to_timm(backbone)
    assert_close(*latents_of_both(backbone, peer, full_contents("image"), batch_of), rtol=0, atol=1e-5)


def test_timms_own_transforms_are_told_mean_and_standard_deviation(picture_backbone):
    config = resolve_model_data_config(to_timm(picture_backbone))
    assert_close(torch.tensor(config["mean"]), torch.tensor([0.4, 0.5, 0.6]))
    assert_close(torch.tensor(config["std"]), torch.tensor([0.2, 0.25, 0.3]))
    assert config["input_size"] == (3, 32, 32)


class RoutedFeedForward(FeedForward):
    """A stand-in for layers that timm does not have."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = DenseFeedForward(width)

    def forward(self, x, around):
        return self.inner(x, around)


def refusal(image, text, backbone_of, case):
    if case == "two streams":
        return backbone_of({"image": image, "text": text})
    if case == "text":
        return backbone_of({"text": text})
    if case == "entry":
        return backbone_of({"image": image}, norm_entry=True)
    backbone = backbone_of({"image": image})
    backbone.trunk.blocks[1].feedforward = RoutedFeedForward(16)
    return backbone


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("two streams", "timm's VisionTransformer has one stream, this backbone has image, text"),
        ("text", "timm's VisionTransformer takes images; stream 'text' is none"),
        ("entry", "no norm before its blocks; train with trunk.norm_entry=false"),
        ("feedforward", "only a dense feed-forward can be exported, this trunk has RoutedFeedForward"),
    ],
)
def test_what_timm_lacks_is_refused_with_a_sentence(image, text, backbone_of, case, sentence):
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        to_timm(refusal(image, text, backbone_of, case))
