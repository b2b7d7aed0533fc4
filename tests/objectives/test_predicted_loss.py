"""Importance by a teacher's predicted loss: how many, which, and that the rest stays a uniform draw."""

import numpy as np
import pytest
import torch

from mmpt.config import component
from mmpt.errors import ConfigError
from mmpt.objectives.masking.algebra import Masking, MaskingSettings
from mmpt.objectives.masking.importance import Importance
from mmpt.objectives.masking.importance.predicted_loss import PredictedLossImportance, hardest
from mmpt.objectives.masking.unit import Unit
from mmpt.tokens import Content, StreamContext


def context_of(content, predicted, rows=None, progress=0.0):
    """Every row of the content, or its first row many times."""
    if rows is not None:
        content = Content(*(tensor[:1].expand(rows, *tensor.shape[1:]) for tensor in content[:5]))
        predicted = predicted[:1].expand(rows, -1)
    draw = torch.arange(len(content.valid)) * 31 + 5
    return StreamContext(content, draw, progress, predicted_loss=predicted)


def masking_of(modality, alpha, ratio=0.75, unit="token", **settings):
    importance = component(Importance, "predicted_loss", start=alpha, end=alpha)
    return Masking(
        modality, MaskingSettings(ratio=ratio, unit=component(Unit, unit, **settings), importance=importance)
    )


def noise(shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


@pytest.mark.parametrize(
    ("epoch", "hard"), [(0, 0), (1, 0), (2, 1), (20, 7), (99, 36), (199, 73)], ids=lambda value: str(value)
)
def test_the_guided_share_follows_the_papers_schedule(image, epoch, hard):
    importance = PredictedLossImportance(image, start=0.0, end=0.5)
    assert importance.count(torch.tensor([147]), (epoch + 1) / 200).tolist() == [hard]


def test_the_share_goes_from_start_to_end_and_no_further(image):
    importance = PredictedLossImportance(image, start=0.2, end=0.6)
    budget = torch.tensor([0, 1, 10, 100])
    assert importance.count(budget, 0.0).tolist() == [0, 0, 2, 20]
    assert importance.count(budget, 0.5).tolist() == [0, 0, 4, 40]
    assert importance.count(budget, 7.0).tolist() == importance.count(budget, 1.0).tolist() == [0, 0, 6, 60]


@pytest.mark.parametrize("name", ["start", "end"])
def test_a_share_outside_zero_to_one_is_refused(image, name):
    with pytest.raises(ConfigError, match=rf"{name}: expected a share from 0 to 1, got 1.5"):
        PredictedLossImportance(image, **{name: 1.5})


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_as_many_are_hidden_for_every_share_and_the_hardest_of_each_row_among_them(image, full_contents, alpha):
    content = full_contents("image")
    predicted = noise(content.valid.shape)
    predicted[:, 0] = 100.0  # the class token, which can't be hidden
    masking = masking_of(image, alpha)
    hidden, certain = masking.drawn(context_of(content, predicted))
    assert certain is not None
    wanted = masking.count(content, 0.0)
    assert wanted == 48
    assert (hidden.sum(1) == wanted).all()
    for row, mask, sure in zip(predicted, hidden, certain, strict=True):
        top = 1 + row[1:].argsort(descending=True)[: int(wanted * alpha)]
        assert mask[top].all()
        assert sure.nonzero().flatten().tolist() == sorted(top.tolist())


@pytest.mark.parametrize("modality", ["text", "labs", "ecg", "speech", "speech_mel", "ecg_stem", "image"])
def test_padding_and_what_was_not_observed_is_never_ranked(modalities, contents, modality):
    content = contents(modality)
    maskable = content.valid & content.observed
    predicted = noise(content.valid.shape).masked_fill(~maskable, torch.nan)
    hidden, certain = masking_of(modalities[modality], 0.5, ratio=0.6).drawn(context_of(content, predicted))
    assert certain is not None
    assert not (hidden & ~maskable).any()
    assert not (certain & ~hidden).any()
    assert torch.equal(certain.sum(1), hidden.sum(1) // 2)
    for row, sure, may in zip(predicted, certain, maskable, strict=True):
        if sure.any():
            assert row[sure].min() > row[may & ~sure].max()


def test_what_the_teacher_leaves_open_is_drawn_uniformly(image, full_contents):
    content = full_contents("image")
    predicted = noise(content.valid.shape)
    hidden, certain = masking_of(image, 0.5).drawn(context_of(content, predicted, rows=8000))
    assert certain is not None
    assert (certain == certain[0]).all()
    shares = hidden[:, 1:][:, ~certain[0, 1:]].double().mean(0)
    wanted = 24 / 40
    assert (shares - wanted).abs().max() < 4.5 * (wanted * (1 - wanted) / 8000) ** 0.5


def test_without_a_difference_the_hardest_are_drawn_uniformly_too(image, full_contents):
    content = full_contents("image")
    predicted = torch.zeros(content.valid.shape)
    _, certain = masking_of(image, 0.5).drawn(context_of(content, predicted, rows=8000))
    assert certain is not None
    shares = certain[:, 1:].double().mean(0)
    assert (shares - 24 / 64).abs().max() < 4.5 * (24 / 64 * 40 / 64 / 8000) ** 0.5


def test_larger_units_are_ranked_by_their_mean_and_taken_whole():
    units = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2]])
    maskable = torch.tensor([[True] * 7 + [False]])
    predicted = torch.tensor([[9.0, 0.0, 0.0, 4.0, 4.0, 3.0, 6.0, 99.0]])  # means 3, 4, 4.5: of what may be hidden
    draw = torch.tensor([1])
    chosen = {
        count: hardest(units, maskable, predicted, torch.tensor([count]), draw)[0].nonzero().flatten().tolist()
        for count in range(8)
    }
    assert chosen[0] == chosen[1] == []
    assert chosen[2] == chosen[3] == [5, 6]
    assert chosen[4] == chosen[5] == chosen[6] == [3, 4, 5, 6]
    assert chosen[7] == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("unit", "modality"), [("span", "speech"), ("block", "image"), ("word", "text")])
def test_whole_units_are_guided(modalities, contents, unit, modality):
    content = contents(modality)
    masking = masking_of(modalities[modality], 0.8, ratio=0.6, unit=unit)
    context = context_of(content, noise(content.valid.shape))
    hidden, certain = masking.drawn(context)
    assert certain is not None
    assert certain.any()
    assert not (certain & ~hidden).any()
    units, maskable = masking.unit.units(context), context.maskable
    for row, sure, may in zip(units, certain, maskable, strict=True):
        for number in row[may].unique():
            assert len(sure[may & (row == number)].unique()) == 1


def test_the_hardest_move_with_their_tokens():
    predicted, order = noise((3, 20)), torch.randperm(20, generator=torch.Generator().manual_seed(0))
    units, maskable = torch.arange(20).expand(3, 20), noise((3, 20), 1) > -1
    count, draw = torch.tensor([4, 7, 0]), torch.arange(3)
    chosen = hardest(units, maskable, predicted, count, draw)
    assert chosen.sum(1).tolist() == count.tolist()
    assert torch.equal(hardest(units, maskable[:, order], predicted[:, order], count, draw), chosen[:, order])
