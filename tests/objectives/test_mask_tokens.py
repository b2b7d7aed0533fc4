"""Mask tokens kept out of the way, inspired by MTO: weights in attention, and how unlike data they are."""

import pytest
import torch
from torch.nn.functional import cosine_similarity, scaled_dot_product_attention
from torch.testing import assert_close

from mmpt.config import component
from mmpt.errors import ConfigError
from mmpt.model import MaskedModel
from mmpt.objectives import Objective
from mmpt.objectives.latents import latents_of
from mmpt.objectives.mask_tokens import LayerWeights, MaskTokenSettings, likeness
from mmpt.objectives.masked_prediction import MaskedPrediction
from mmpt.tokens import score
from mmpt.trunk.attention import biased_attention, may_attend

DECODER = {"type": "decoder", "width": 16, "depth": 1, "heads": 2}
TEXT = {"masking": {"ratio": 0.4}, "corruption": "replace", "predictor": "tied", "target": "token_ids"}
IMAGE = {"masking": {"ratio": 0.5}, "corruption": "replace", "predictor": "mlp", "target": "pixels"}
STREAMS = {"text": TEXT, "image": IMAGE}


@pytest.fixture
def model_of(modalities, backbone_of, randomised):
    """`model_of(mask_tokens={...}, text=TEXT)`: the same weights with and without."""

    def make(mask_tokens=None, trunk=None, **streams):
        chosen = {name: modalities[name] for name in streams}
        backbone = backbone_of(chosen, depth=3, **(trunk or {}))
        settings = {"streams": streams, "mask_tokens": mask_tokens}
        model = MaskedModel(backbone, component(Objective, "masked_prediction", **settings).build(backbone, chosen))
        randomised(model)  # all but the weights, which come last
        if isinstance(model.objective, MaskedPrediction) and model.objective.muting is not None:
            with torch.no_grad():
                model.objective.muting.logits.copy_(torch.tensor([-2.0, 0.0, 3.0]))
        return model

    return make


def weigh(model, logit):
    """Every block's weight to sigmoid(logit)."""
    with torch.no_grad():
        model.objective.muting.logits.fill_(logit)
    return model


def trained_on(model, batch):
    step = model(batch, model.hide(batch, 0.5), 0.5)
    model.zero_grad()
    torch.stack([loss.total for loss in step.losses.values()]).sum().backward()
    return step, {name: p.grad for name, p in model.named_parameters()}


# ---- attention


def test_a_bias_is_added_to_every_product_with_a_key_and_has_a_gradient(contents):
    content, generator = contents("text"), torch.Generator().manual_seed(0)
    rows, size = content.valid.shape
    query, key, value = (torch.randn(rows, 2, size, 8, generator=generator) for _ in range(3))
    allowed = may_attend(content.valid, content.segment)
    bias = torch.randn(rows, size, generator=generator, requires_grad=True)
    own = biased_attention(query, key, value, allowed, bias)
    mask = torch.where(allowed, bias[:, None, None, :], -torch.inf)
    wanted = scaled_dot_product_attention(query, key, value, attn_mask=mask)
    assert_close(own, wanted, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(out.square().sum(), bias)[0] for out in (own, wanted)]
    assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["text", "image"])
def test_weights_of_1_change_not_a_bit(model_of, contents, batch_of, name):
    batch = batch_of(**{name: contents(name)})
    plain = model_of(**{name: STREAMS[name]}).train()
    muted = weigh(model_of({"singularity": 0.0}, **{name: STREAMS[name]}), 200.0).train()
    wanted, gradients = trained_on(plain, batch)
    own, others = trained_on(muted, batch)
    assert torch.equal(own.losses[name].total, wanted.losses[name].total)
    assert torch.equal(own.losses[name].rows, wanted.losses[name].rows)
    assert all(torch.equal(others[key], gradients[key]) for key in gradients)
    assert others.keys() - gradients.keys() == {"objective.muting.logits"}


@pytest.mark.parametrize("name", ["text", "image"])
def test_weights_of_0_are_hidden_tokens_taken_away(model_of, contents, batch_of, name):
    batch = batch_of(**{name: contents(name)})
    muted = weigh(model_of({}, **{name: STREAMS[name]}), -1e4)
    dropping = model_of(**{name: {**STREAMS[name], "corruption": "drop", "predictor": DECODER}})
    hidden = muted.hide(batch, 0.5)
    with torch.no_grad():
        seen = muted.objective._latents(muted.backbone, batch, hidden, 0.5).latents[name]
        rest = latents_of(dropping.backbone, dropping.objective._corruptions(), batch, hidden, 0.5).latents[name]
    for row, valid in enumerate(rest.shown.tokens.valid):
        places = rest.shown.places[row][valid]
        assert_close(seen.own[row][places], rest.own[row][valid], rtol=1e-4, atol=1e-5)


def test_blocks_begin_with_weights_along_a_line_and_those_of_shown_tokens_are_1():
    hidden = torch.tensor([[True, False, True]])
    muted = LayerWeights(3, MaskTokenSettings(start=0.2, end=0.8))(hidden)
    assert_close(muted.log_weight.exp(), torch.tensor([0.2, 0.5, 0.8]))
    assert muted.tokens is hidden


@pytest.mark.parametrize("trunk", [{}, {"checkpointing": True}])
def test_every_weight_is_trained(model_of, contents, batch_of, trunk):
    model = model_of({}, trunk, **STREAMS).train()
    rows = slice(5)
    streams = {name: contents(name) for name in STREAMS}
    streams = {name: type(own)(*(t[rows] for t in own[:5])) for name, own in streams.items()}
    _, gradients = trained_on(model, batch_of(**streams))
    assert all(own is not None and own.isfinite().all() for own in gradients.values())
    assert (gradients["objective.muting.logits"] != 0).all()


def test_predictions_are_made_with_the_weights_of_training(model_of, contents, batch_of):
    model, batch = model_of({}, text=TEXT).eval(), batch_of(text=contents("text"))
    hidden = model.hide(batch, 0.5)
    seen = model.objective.predict(model.backbone, batch, hidden)["text"]
    loss = model.objective.part("text").target.loss(
        seen.prediction, batch.streams["text"].values[seen.row, seen.places]
    )
    assert_close(loss.sum(), model(batch, hidden, 0.5).metrics["text/loss"][0])
    before = seen.prediction
    assert not torch.equal(
        before, model.objective.predict(weigh(model, -9.0).backbone, batch, hidden)["text"].prediction
    )


# ---- singularity


def test_likeness_is_the_mean_positive_cosine_to_the_visible_tokens_of_the_document(contents):
    content, generator = contents("text"), torch.Generator().manual_seed(1)
    maskable = content.valid & content.observed
    hidden = maskable & (torch.rand(content.valid.shape, generator=generator) < 0.4)
    x = torch.randn(*content.valid.shape, 6, generator=generator)
    scored = score(hidden, None)
    own = likeness(x, hidden, content, scored)
    assert len(content.segment.unique()) > 1
    for row, place in hidden.nonzero().tolist():
        seen = maskable[row] & ~hidden[row] & (content.segment[row] == content.segment[row, place])
        cosines = cosine_similarity(x[row, place].expand(int(seen.sum()), -1), x[row][seen], dim=1).clamp(min=0)
        wanted = cosines.mean() if seen.any() else torch.zeros(())
        assert_close(own[row, scored.places[row].tolist().index(place)], wanted, rtol=1e-5, atol=1e-6)


def test_likeness_joins_the_loss_by_its_weight_and_pushes_the_mask_token_away(model_of, contents, batch_of):
    batch = batch_of(image=contents("image"))
    without, model = (model_of({"singularity": share}, image=IMAGE) for share in (0.0, 2.0))
    plain, step = (trained_on(own, batch)[0] for own in (without, model))
    total, count = step.metrics["image/likeness"]
    assert_close(step.losses["image"].total, plain.losses["image"].total + 2 * total, rtol=1e-5, atol=1e-4)
    assert 0 < total / count < 1
    vector = model.objective.part("image").corruption.vector
    before = float(total / count)
    with torch.no_grad():
        vector -= 0.02 * (vector.grad - without.objective.part("image").corruption.vector.grad)
    total, count = model(batch, model.hide(batch, 0.5), 0.5).metrics["image/likeness"]
    assert float(total / count) < before


# ---- what is refused


@pytest.mark.parametrize(
    ("settings", "stream", "sentence"),
    [
        ({}, {"corruption": "drop", "predictor": DECODER}, r"mask_tokens: corruption 'drop' of stream 'image'"),
        ({"start": 0.0}, {}, "start: expected a weight between 0 and 1, got 0"),
        ({"end": 1.0}, {}, "end: expected a weight between 0 and 1, got 1"),
        ({"singularity": -1.0}, {}, "singularity: expected 0 or more, got -1"),
    ],
)
def test_settings_that_can_not_be_are_refused(model_of, settings, stream, sentence):
    with pytest.raises(ConfigError, match=sentence):
        model_of(settings, image={**IMAGE, **stream})
