"""Our masked autoencoder's loss and gradients are those of transformers' ViTMAEForPreTraining."""

import pytest
import torch
from torch.testing import assert_close
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from mmpt.config import component
from mmpt.encoders.image import Image
from mmpt.export.timm import timm_pixels, to_timm
from mmpt.model import MaskedModel
from mmpt.objectives import Objective

RATIO = 0.75


@pytest.fixture
def model_of(image, backbone_of, randomised):
    def make(normalize):
        modality = Image(image.facts, size=32, patch=4)
        backbone = backbone_of({"image": modality}, width=24, depth=3, heads=3)
        stream = {
            "masking": {"ratio": RATIO},
            "corruption": "drop",
            "predictor": {"type": "decoder", "width": 16, "depth": 2, "heads": 2},
            "target": {"type": "pixels", "normalize": normalize},
        }
        objective = component(Objective, "masked_prediction", streams={"image": stream})
        return randomised(MaskedModel(backbone, objective.build(backbone, {"image": modality})))

    return make


def peer_of(model, normalize):
    """ViTMAEForPreTraining with our weights."""
    backbone, predictor = model.backbone, model.objective.streams["image"].predictor
    config = ViTMAEConfig(
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=96,
        image_size=32,
        patch_size=4,
        layer_norm_eps=1e-6,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=64,
        mask_ratio=RATIO,
        norm_pix_loss=normalize,
    )
    encoder = to_timm(backbone).state_dict()
    weights = {
        "vit.embeddings.cls_token": encoder["cls_token"],
        "vit.embeddings.position_embeddings": encoder["pos_embed"],
        "vit.embeddings.patch_embeddings.projection.weight": encoder["patch_embed.proj.weight"],
        "vit.embeddings.patch_embeddings.projection.bias": encoder["patch_embed.proj.bias"],
        "decoder.mask_token": predictor.mask_token.view(1, 1, -1),
        "decoder.decoder_embed.weight": predictor.entry.weight,
        "decoder.decoder_embed.bias": predictor.entry.bias,
        "decoder.decoder_pred.weight": predictor.head.weight,
        "decoder.decoder_pred.bias": predictor.head.bias,
        **norm("vit.layernorm", backbone.trunk.norm),
        **norm("decoder.decoder_norm", predictor.norm),
    }
    for number, block in enumerate(backbone.trunk.blocks):
        weights |= layer(f"vit.layers.{number}.", block)
    for number, block in enumerate(predictor.blocks):
        weights |= layer(f"decoder.decoder_layers.{number}.", block)
    peer = ViTMAEForPreTraining(config)
    peer.decoder.initialize_weights(num_patches=64)  # post_init() of transformers 5.23 leaves this table zero
    weights["decoder.decoder_pos_embed"] = peer.decoder.decoder_pos_embed.detach().clone()
    peer.load_state_dict(weights)
    return peer


def norm(name, module):
    return {f"{name}.weight": module.weight, f"{name}.bias": module.bias}


def layer(prefix, block):
    names = {"q_proj": 0, "k_proj": 1, "v_proj": 2}
    weights = {
        **norm(prefix + "layernorm_before", block.norm1),
        **norm(prefix + "layernorm_after", block.norm2),
        **norm(prefix + "attention.o_proj", block.attention.proj),
        **norm(prefix + "mlp.fc1", block.feedforward.mlp.fc1),
        **norm(prefix + "mlp.fc2", block.feedforward.mlp.fc2),
    }
    for name, part in names.items():
        for kind in ("weight", "bias"):
            weights[f"{prefix}attention.{name}.{kind}"] = getattr(block.attention.qkv, kind).chunk(3)[part]
    return weights


def outputs_of_both(model, peer, batch):
    content, hidden = batch.streams["image"], model.hide(batch, 0.0)
    step = model(batch, hidden, 0.0)
    patches = hidden["image"].hidden[:, 1:]
    noise = patches.float() + torch.arange(patches.shape[1]) * 1e-3  # their argsort keeps what we show, in order
    encoder = model.backbone.encoders["image"]
    theirs = peer(timm_pixels(content.values, encoder.mean, encoder.std), noise=noise)
    assert torch.equal(theirs.mask.bool(), patches)
    return step.losses["image"].total / hidden["image"].denominator, theirs


@pytest.mark.parametrize("normalize", [True, False])
def test_the_loss_equals_that_of_transformers(model_of, full_contents, batch_of, normalize):
    model = model_of(normalize)
    ours, theirs = outputs_of_both(model, peer_of(model, normalize), batch_of(image=full_contents("image")))
    assert_close(ours, theirs.loss, rtol=0, atol=1e-5)


def test_the_predictions_equal_those_of_transformers(model_of, full_contents, batch_of):
    model, batch = model_of(True), batch_of(image=full_contents("image"))
    _, theirs = outputs_of_both(model, peer_of(model, True), batch)
    ours = model.objective.predict(model.backbone, batch, model.hide(batch, 0.0))["image"]
    assert_close(ours.prediction, theirs.logits[ours.row, ours.places - 1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("normalize", [True, False])
def test_gradients_of_the_loss_equal_those_of_transformers(model_of, full_contents, batch_of, normalize):
    model = model_of(normalize)
    peer = peer_of(model, normalize)
    ours, theirs = outputs_of_both(model, peer, batch_of(image=full_contents("image")))
    ours.backward()
    theirs.loss.backward()
    encoder, predictor = model.backbone.encoders["image"], model.objective.streams["image"].predictor
    block = model.backbone.trunk.blocks[0]
    convolution = peer.vit.embeddings.patch_embeddings.projection.weight.grad
    pairs = [
        (encoder.projection.weight.grad, convolution.permute(0, 2, 3, 1).flatten(1)),
        (encoder.class_token.grad, peer.vit.embeddings.cls_token.grad.flatten()),
        (block.attention.qkv.weight.grad.chunk(3)[1], peer.vit.layers[0].attention.k_proj.weight.grad),
        (block.feedforward.mlp.fc2.weight.grad, peer.vit.layers[0].mlp.fc2.weight.grad),
        (predictor.mask_token.grad, peer.decoder.mask_token.grad.flatten()),
        (predictor.head.weight.grad, peer.decoder.decoder_pred.weight.grad),
    ]
    for mine, other in pairs:
        assert mine.abs().max() > 1e-5
        assert_close(mine, other, rtol=0, atol=1e-5)


def test_a_patch_of_one_colour_has_a_finite_normalised_target(model_of, full_contents, batch_of):
    content = full_contents("image")
    flat = content._replace(values=torch.full_like(content.values, 200))
    model = model_of(True)
    ours, theirs = outputs_of_both(model, peer_of(model, True), batch_of(image=flat))
    assert ours.isfinite()
    assert_close(ours, theirs.loss, rtol=0, atol=1e-5)
