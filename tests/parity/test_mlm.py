"""Our masked-language-model loss is that of transformers' RobertaPreLayerNormForMaskedLM."""

import pytest
import torch
from torch.testing import assert_close
from transformers import RobertaPreLayerNormForMaskedLM

from mmpt.config import component
from mmpt.export.text import to_roberta
from mmpt.foreign.entries import given
from mmpt.foreign.roberta import roberta_head
from mmpt.model import MaskedModel
from mmpt.objectives import Objective
from mmpt.randomness import fold, uniform_rows


@pytest.fixture
def model_of(text, backbone_of, randomised):
    def make(seed=0, keep=0.0, random=0.0, **settings):
        backbone = backbone_of({"text": text}, seed=seed, norm_entry=True)
        stream = {
            "masking": {"ratio": 0.3},
            "corruption": {"type": "replace", "keep": keep, "random": random},
            "predictor": "tied",
            "target": "token_ids",
        }
        objective = component(Objective, "masked_prediction", streams={"text": stream | settings})
        model = MaskedModel(backbone, objective.build(backbone, {"text": text}))
        randomised(model, seed)
        return model.eval()

    return make


@pytest.fixture
def batch(text, documents, batch_of):
    """Padded rows of one document each: transformers has no packed ones."""
    return batch_of(text=text.collate([[document] for document in documents("text")], None))


def peer_of(model, text):
    """With our weights; what is shown for hidden tokens is looked up as <mask>, and the head has our table."""
    encoder = to_roberta(model.backbone, text)
    encoder.config.tie_word_embeddings = False
    peer = RobertaPreLayerNormForMaskedLM(encoder.config)
    head = given(roberta_head(), model.state_dict())
    table = encoder.embeddings.word_embeddings.weight.detach()
    shown = table.clone()
    shown[text.special("mask")] = model.objective.streams["text"].corruption.vector.detach()
    peer.load_state_dict(
        {
            **{f"roberta_prelayernorm.{name}": weight for name, weight in encoder.state_dict().items()},
            "roberta_prelayernorm.embeddings.word_embeddings.weight": shown,
            **head,
            "lm_head.decoder.weight": table,
            "lm_head.decoder.bias": head["lm_head.bias"],
        }
    )
    return peer.eval()


def losses_of_both(model, peer, batch, text):
    """Ours, and theirs on the input that our corruption made."""
    content, hidden = batch.streams["text"], model.hide(batch, 0.0)
    step = model(batch, hidden, 0.0)
    positions = hidden["text"].hidden
    ids = content.values.masked_fill(positions, text.special("mask"))
    draw, size = fold(batch.draw, "text"), positions.shape[1]
    corruption = model.objective.streams["text"].corruption
    if corruption.keep or corruption.random:
        lot = uniform_rows(draw, size, "keep or random")
        other = (uniform_rows(draw, size, "random content") * text.vocabulary).long()
        ids = torch.where(positions & (lot < corruption.keep + corruption.random), other, ids)
        ids = torch.where(positions & (lot < corruption.keep), content.values, ids)
    labels = content.values.masked_fill(~positions, -100)
    theirs = peer(input_ids=ids, attention_mask=content.valid.long(), labels=labels)
    return step.losses["text"].total / hidden["text"].denominator, theirs.loss


def test_the_loss_equals_that_of_transformers_with_our_weights(model_of, batch, text):
    model = model_of()
    assert_close(*losses_of_both(model, peer_of(model, text), batch, text), rtol=0, atol=1e-5)


def test_the_loss_equals_that_of_transformers_with_kept_and_random_tokens(model_of, batch, text):
    model = model_of(keep=0.3, random=0.3)
    assert_close(*losses_of_both(model, peer_of(model, text), batch, text), rtol=0, atol=1e-5)


def test_gradients_of_the_loss_equal_those_of_transformers(model_of, batch, text):
    model = model_of()
    peer = peer_of(model, text)
    mine, theirs = losses_of_both(model, peer, batch, text)
    mine.backward()
    theirs.backward()
    embeddings, body = peer.roberta_prelayernorm.embeddings, peer.roberta_prelayernorm
    part = model.objective.streams["text"]
    pairs = [
        (model.backbone.trunk.blocks[0].norm1.weight.grad, body.encoder.layer[0].attention.LayerNorm.weight.grad),
        (part.predictor.dense.weight.grad, peer.lm_head.dense.weight.grad),
        (part.corruption.vector.grad, embeddings.word_embeddings.weight.grad[text.special("mask")]),
    ]
    for ours, other in pairs:
        assert_close(ours, other, rtol=0, atol=1e-5)
