"""Our video encoder and masked autoencoder are transformers' VideoMAEModel and VideoMAEForPreTraining."""

import pytest
import torch
from torch.testing import assert_close
from transformers import VideoMAEConfig, VideoMAEForPreTraining
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from mmpt.config import component
from mmpt.encoders import Facts
from mmpt.encoders.video import Video
from mmpt.model import MaskedModel
from mmpt.objectives import Objective
from tests.encoders.video_material import clip

EPS = 1e-5  # of every norm: their decoder's last one has no other
RATIO = 0.9


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    statistics = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
    settings = {"size": 16, "patch": 4, "frames": 6, "tubelet": 2, "stride": 1, "positions": "flat"}
    return Video(Facts(tmp_path_factory.mktemp("video"), {}, statistics), **settings)


@pytest.fixture(scope="module")
def model(video, backbone_of, randomised):
    backbone = backbone_of({"video": video}, width=24, depth=3, heads=3, norm_eps=EPS)
    stream = {
        "masking": {"ratio": RATIO, "unit": "tube"},
        "corruption": "drop",
        "predictor": {"type": "decoder", "width": 16, "depth": 2, "heads": 2, "norm_eps": EPS},
        "target": {"type": "pixels", "normalize": True},
    }
    objective = component(Objective, "masked_prediction", streams={"video": stream})
    made = randomised(MaskedModel(backbone, objective.build(backbone, {"video": video})))
    with torch.no_grad():  # what theirs has no place for
        made.objective.streams["video"].predictor.entry.bias.zero_()
        for name, bias in made.named_parameters():
            if name.endswith("qkv.bias"):
                bias.chunk(3)[1].zero_()
    return made


@pytest.fixture(scope="module")
def batch(video, batch_of):
    return batch_of(video=video.collate([[video.read(clip(n), 0, 6, None)] for n in range(4)], None))


def layer(prefix, block):
    weights = {
        **norm(prefix + "layernorm_before", block.norm1),
        **norm(prefix + "layernorm_after", block.norm2),
        **norm(prefix + "attention.output.dense", block.attention.proj),
        **norm(prefix + "intermediate.dense", block.feedforward.mlp.fc1),
        **norm(prefix + "output.dense", block.feedforward.mlp.fc2),
    }
    for part, name in enumerate(("query", "key", "value")):
        for kind in ("weight",) if name == "key" else ("weight", "bias"):
            own = getattr(block.attention.qkv, kind).chunk(3)[part]
            weights[f"{prefix}attention.attention.{name}.{kind}"] = own
    return weights


def norm(name, module):
    return {f"{name}.weight": module.weight, f"{name}.bias": module.bias}


@pytest.fixture(scope="module")
def peer(video, model):
    """VideoMAEForPreTraining with our weights."""
    config = VideoMAEConfig(
        image_size=16, patch_size=4, num_frames=6, tubelet_size=2, hidden_size=24, num_hidden_layers=3,
        num_attention_heads=3, intermediate_size=96, layer_norm_eps=EPS, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, decoder_hidden_size=16, decoder_num_hidden_layers=2,
        decoder_num_attention_heads=2, decoder_intermediate_size=64, norm_pix_loss=True, use_mean_pooling=False,
    )  # fmt: skip
    encoder, predictor = model.backbone.encoders["video"], model.objective.streams["video"].predictor
    kernel = encoder.projection.weight.unflatten(1, (video.tubelet, video.patch, video.patch, 3))
    weights = {
        "videomae.embeddings.patch_embeddings.projection.weight": kernel.permute(0, 4, 1, 2, 3),
        "videomae.embeddings.patch_embeddings.projection.bias": encoder.projection.bias,
        **norm("videomae.layernorm", model.backbone.trunk.norm),
        "encoder_to_decoder.weight": predictor.entry.weight,
        "mask_token": predictor.mask_token.view(1, 1, -1),
        **norm("decoder.norm", predictor.norm),
        **norm("decoder.head", predictor.head),
    }
    for number, block in enumerate(model.backbone.trunk.blocks):
        weights |= layer(f"videomae.encoder.layer.{number}.", block)
    for number, block in enumerate(predictor.blocks):
        weights |= layer(f"decoder.decoder_layers.{number}.", block)
    made = VideoMAEForPreTraining(config)
    made.load_state_dict(weights)
    return made.eval()


def pixels_of(video, content, encoder):
    """Tubelets -> normalised frames (B, T, 3, H, W)."""
    grid = content.values.view(-1, video.times, video.side, video.side, video.tubelet, video.patch, video.patch, 3)
    frames = grid.permute(0, 1, 4, 7, 2, 5, 3, 6).reshape(-1, video.frames, 3, video.size, video.size) / 255
    return (frames - encoder.mean.view(3, 1, 1)) / encoder.std.view(3, 1, 1)


def test_tokens_and_latents_equal_those_of_transformers(video, model, peer, batch):
    encoder = model.backbone.encoders["video"]
    pixels = pixels_of(video, batch.streams["video"], encoder)
    tokens = encoder(batch.streams["video"])
    assert_close(tokens.x + tokens.position, peer.videomae.embeddings(pixels, None), rtol=0, atol=1e-5)
    theirs = peer.videomae(pixels).last_hidden_state
    assert_close(model.backbone(batch)["video"].x, theirs, rtol=0, atol=1e-5)


def test_loss_predictions_and_gradients_equal_those_of_transformers(video, model, peer, batch):
    hidden = model.hide(batch, 0.0)
    step = model(batch, hidden, 0.0)
    ours = step.losses["video"].total / hidden["video"].denominator
    encoder, predictor = model.backbone.encoders["video"], model.objective.streams["video"].predictor
    theirs = peer(pixels_of(video, batch.streams["video"], encoder), bool_masked_pos=hidden["video"].hidden)
    assert_close(ours, theirs.loss, rtol=0, atol=1e-5)
    predicted = model.objective.predict(model.backbone, batch, hidden)["video"].prediction
    assert_close(predicted, theirs.logits.flatten(0, 1), rtol=0, atol=1e-5)
    ours.backward()
    theirs.loss.backward()
    kernel = peer.videomae.embeddings.patch_embeddings.projection.weight.grad.permute(0, 2, 3, 4, 1).flatten(1)
    block = peer.videomae.encoder.layer[0]
    pairs = [
        (encoder.projection.weight.grad, kernel),
        (model.backbone.trunk.blocks[0].feedforward.mlp.fc2.weight.grad, block.output.dense.weight.grad),
        (predictor.mask_token.grad, peer.mask_token.grad.flatten()),
        (predictor.head.weight.grad, peer.decoder.head.weight.grad),
    ]
    for mine, other in pairs:
        assert mine.abs().max() > 1e-5
        assert_close(mine, other, rtol=0, atol=1e-5)
