"""Ask2Mask: what a scorer is sure of is hidden first, and samples that it is sure of weigh more."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from mmpt.config import component
from mmpt.errors import ConfigError
from mmpt.model import MaskedModel
from mmpt.objectives import Objective
from mmpt.objectives.masking.algebra import Masking, MaskingSettings
from mmpt.objectives.masking.importance import Importance
from mmpt.objectives.masking.unit import Unit
from mmpt.tokens import StreamContext

DECODER = {"type": "decoder", "width": 16, "depth": 1, "heads": 2}


def hidden_of(modality, content, scores, seed=0, unit="token", ratio=0.4, of_unit=None, **settings):
    importance = component(Importance, "score", **settings)
    unit = component(Unit, unit, **(of_unit or {}))
    masking = Masking(modality, MaskingSettings(ratio=ratio, unit=unit, importance=importance))
    draw = torch.arange(len(content.valid)) * 7919 + seed * 104729
    return masking(StreamContext(content._replace(scores=scores), draw, 0.5))


@pytest.mark.parametrize(("mode", "sign"), [("top", 1), ("bottom", -1)])
def test_the_tokens_with_the_highest_or_lowest_scores_are_hidden(modalities, contents, mode, sign):
    content = contents("speech_mel")
    scores = torch.rand(content.valid.shape, generator=torch.Generator().manual_seed(1))
    hidden = hidden_of(modalities["speech_mel"], content, scores, mode=mode)
    for row, may, own in zip(hidden, content.valid & content.observed, scores, strict=True):
        ranked = (sign * own).masked_fill(~may, -torch.inf).argsort(descending=True)
        assert set(row.nonzero().flatten().tolist()) == set(ranked[: int(row.sum())].tolist())
    uniform = Masking(modalities["speech_mel"], MaskingSettings(ratio=0.4))
    context = StreamContext(content, torch.arange(len(content.valid)), 0.5)
    assert torch.equal(hidden.sum(1), uniform(context).sum(1))


@pytest.mark.parametrize(("mode", "sign"), [("top", 1), ("bottom", -1)])
def test_overlapping_spans_begin_at_the_highest_or_lowest_scores(modalities, contents, mode, sign):
    """The paper's starts: the K surest frames that a span fits behind."""
    content = contents("speech_mel")
    scores = torch.rand(content.valid.shape, generator=torch.Generator().manual_seed(1))
    spans = {"length": 3, "fewest": 1}
    hidden = hidden_of(
        modalities["speech_mel"], content, scores, unit="overlapping_span", of_unit=spans, ratio=0.6, mode=mode
    )
    checked = 0
    for row, may, own in zip(hidden, content.valid & content.observed, scores, strict=True):
        fits = [place for place in range(len(row) - 3) if may[place : place + 4].all()]
        ranked = sorted(fits, key=lambda place: -sign * own[place])
        covers = [{start + n for start in ranked[:k] for n in range(3)} for k in range(1, len(ranked) + 1)]
        if fits:
            assert set(row.nonzero().flatten().tolist()) in covers
            checked += 1
    assert checked > 2


@pytest.mark.parametrize("unit", ["token", "span"])
@pytest.mark.parametrize("mode", ["top", "bottom"])
def test_a_monotone_map_of_single_scores_and_a_linear_one_of_spans_changes_nothing(modalities, contents, mode, unit):
    content = contents("speech_mel")
    scores = torch.rand(content.valid.shape, generator=torch.Generator().manual_seed(1))
    mapped = scores.exp() ** 2 if unit == "token" else 3 * scores + 1
    one, other = (hidden_of(modalities["speech_mel"], content, own, mode=mode, unit=unit) for own in (scores, mapped))
    assert torch.equal(one, other)


@pytest.mark.parametrize("mode", ["top", "bottom", "sampled"])
def test_equal_scores_are_hidden_at_random(modalities, full_contents, mode):
    content = full_contents("image")
    alike = torch.full(content.valid.shape, 0.7)
    masks = [hidden_of(modalities["image"], content, alike, seed, mode=mode) for seed in range(150)]
    shares = torch.stack(masks).float().mean((0, 1))[content.observed[0]]
    rows = len(masks) * len(content.valid)
    assert (shares - shares.mean()).abs().max() < 5 * math.sqrt(0.24 / rows)


def test_sampling_prefers_what_scores_higher(modalities, full_contents):
    content = full_contents("image")
    scores = torch.where(torch.arange(content.valid.shape[1]) % 2 == 0, 0.9, 0.1).expand(content.valid.shape)
    masks = torch.stack([hidden_of(modalities["image"], content, scores, seed, mode="sampled") for seed in range(20)])
    shares = masks.float().mean((0, 1))
    high, low = (float(shares[(scores[0] == value) & content.observed[0]].mean()) for value in (0.9, 0.1))
    assert high > 3 * low > 0


def test_guided_masks_meet_planted_noise_less_often_than_uniform_ones(modalities, full_contents):
    content = full_contents("image")
    noise = torch.rand(content.valid.shape, generator=torch.Generator().manual_seed(2)) < 0.3
    scores = torch.where(noise, 0.2, 0.8)
    may = content.valid & content.observed
    guided = hidden_of(modalities["image"], content, scores, mode="top") & noise
    context = StreamContext(content, torch.arange(len(content.valid)), 0.5)
    uniform = Masking(modalities["image"], MaskingSettings(ratio=0.4))(context) & noise
    assert int(guided.sum()) == 0 < int(uniform.sum())
    assert int((noise & may).sum()) > 0


# ---- weights of rows


@pytest.fixture
def model_of(modalities, backbone_of, randomised):
    def make(row_weight, average="scored"):
        stream = {"masking": {"ratio": 0.5}, "corruption": "drop", "predictor": DECODER, "target": "pixels"}
        settings = {"image": {**stream, "row_weight": row_weight, "average": average}}
        chosen = {"image": modalities["image"]}
        backbone = backbone_of(chosen)
        built = component(Objective, "masked_prediction", streams=settings).build(backbone, chosen)
        return randomised(MaskedModel(backbone, built)).eval()

    return make


def mean_loss(model, batch):
    hidden = model.hide(batch, 0.5)["image"]
    return model(batch, {"image": hidden}, 0.5).losses["image"].total / hidden.denominator, hidden


@pytest.mark.parametrize("average", ["scored", "sample", "valid"])
def test_rows_weigh_by_their_mean_score_and_weights_average_one(model_of, contents, batch_of, average):
    weighted, plain = model_of("scores", average), model_of("none", average)
    content = contents("image")
    batch = batch_of(image=content)
    loss, hidden = mean_loss(weighted, batch)
    known = content.valid & content.observed
    means = (content.scores * known).sum(1) / known.sum(1).clamp(min=1)
    assert_close(hidden.weight, means)
    own = plain.hide(batch, 0.5)["image"]
    rows = {"scored": own.scored.sum(1), "sample": own.scored.any(1), "valid": content.valid.sum(1)}[average].float()
    assert_close(hidden.denominator, (rows * means).sum())
    normed = means * rows.sum() / (rows * means).sum()
    assert_close((normed * rows).sum() / rows.sum(), torch.tensor(1.0))
    totals = plain(batch, {"image": own}, 0.5).losses["image"].rows
    if average == "sample":
        totals = totals / own.scored.sum(1).clamp(min=1)
    assert_close(loss, (normed * totals).sum() / rows.sum(), rtol=1e-4, atol=1e-5)


def test_the_scale_of_scores_changes_nothing_and_equal_ones_are_no_weights(model_of, contents, batch_of):
    content, model = contents("image"), model_of("scores")
    one, other = (mean_loss(model, batch_of(image=content._replace(scores=content.scores * c)))[0] for c in (1, 5))
    assert_close(one, other)
    alike = batch_of(image=content._replace(scores=torch.full_like(content.scores, 0.3)))
    assert_close(mean_loss(model, alike)[0], mean_loss(model_of("none"), alike)[0])


def test_streams_without_scores_are_refused(modalities, image, backbone_of):
    facts = replace(image.facts, values={name: v for name, v in image.facts.values.items() if name != "scores"})
    bare = {"image": replace(modalities["image"], facts=facts)}
    with pytest.raises(ConfigError, match="importance 'score' needs a scorer's confidence"):
        component(Importance, "score", mode="top").build(bare["image"])
    stream = {"masking": {"ratio": 0.5}, "corruption": "drop", "predictor": DECODER, "target": "pixels"}
    settings = component(Objective, "masked_prediction", streams={"image": {**stream, "row_weight": "scores"}})
    with pytest.raises(ConfigError, match=r"objective\.streams\.image\.row_weight: no source of this stream"):
        settings.build(backbone_of(bare), bare)


def test_a_batch_without_scores_is_refused(modalities, contents):
    with pytest.raises(ConfigError, match="a batch has none"):
        hidden_of(modalities["image"], contents("image"), None, mode="top")
