"""An image-only backbone and timm's VisionTransformer are the same function."""

import re

import pytest
import torch
from timm.data import resolve_model_data_config
from torch.testing import assert_close

from mmpt.config import component
from mmpt.encoders import Facts
from mmpt.encoders.image import Image
from mmpt.errors import ConfigError
from mmpt.export.timm import from_timm, timm_pixels, to_timm
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


def test_our_backbone_gives_the_same_latents_with_timms_weights(
    image, backbone_of, randomised, full_contents, batch_of
):
    modality = Image(image.facts, size=32, patch=4, positions="learned")
    backbone, other = (backbone_of({"image": modality}, seed=seed, width=24, depth=3, heads=3) for seed in (0, 1))
    peer = randomised(to_timm(other), 2).eval()
    from_timm(backbone, peer)
    assert_close(*latents_of_both(backbone, peer, full_contents("image"), batch_of), rtol=0, atol=1e-5)


def test_weights_come_back_from_timm_and_compute_the_same(
    picture_backbone, image, backbone_of, full_contents, batch_of
):
    modality = Image(
        image.facts, size=32, patch=4, positions="learned" if picture_backbone.encoders["image"].learned else "sincos"
    )
    fresh = backbone_of({"image": modality}, seed=5, width=24, depth=3, heads=3)
    from_timm(fresh, to_timm(picture_backbone))
    batch = batch_of(image=full_contents("image"))
    assert_close(fresh(batch)["image"].x, picture_backbone(batch)["image"].x, rtol=0, atol=1e-5)


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


def test_a_timm_model_that_does_not_fit_is_refused_with_a_sentence(image, text, backbone_of, randomised):
    learned = Image(Facts(image.facts.folder), size=32, patch=4, positions="learned")
    peer = to_timm(backbone_of({"image": learned}))
    with pytest.raises(ConfigError, match="positions of its own, this stream a fixed table"):
        from_timm(backbone_of({"image": image}), peer)
    with pytest.raises(ConfigError, match="has 2 blocks, 2 heads and norm_eps 1e-06, this trunk 2, 4"):
        from_timm(backbone_of({"image": learned}, heads=4), peer)
    peer.reg_token = torch.nn.Parameter(torch.zeros(1, 1, 16))
    with pytest.raises(ConfigError, match="weights 'reg_token', which a backbone has no place for"):
        from_timm(backbone_of({"image": learned}), peer)
