"""Ratio x unit x importance: each does what its paper says."""

import itertools
import math

import numpy as np
import pytest
import torch

from mmpt.config import component
from mmpt.errors import ConfigError
from mmpt.objectives.masking.algebra import Masking, MaskingSettings, choose_units
from mmpt.objectives.masking.importance import Importance
from mmpt.objectives.masking.ratio import Ratio
from mmpt.objectives.masking.unit import Unit
from mmpt.randomness import uniform_rows
from mmpt.tokens import Content, StreamContext


def context_of(content, rows=None, seed=0):
    """Every row of the content, or its first row many times."""
    if rows is not None:
        content = Content(*(tensor[:1].expand(rows, *tensor.shape[1:]) for tensor in content[:5]))
    return StreamContext(content, torch.arange(len(content.valid)) * 31 + seed * 7, 0.0)


def units_of(context, modality, name, **settings):
    return component(Unit, name, **settings).build(modality).units(context)


@pytest.fixture(scope="module")
def long_row(text, documents):
    """One row of a single long document."""
    ids = np.concatenate([document[1:-1] for document in documents("text")] * 2)
    return text.collate([[np.r_[0, ids, 2]]], len(ids) + 2)


@pytest.fixture(scope="module")
def plain_row(text):
    """One document without any marks: 400 observed tokens between <s> and </s>."""
    return text.collate([[np.r_[0, np.full(400, 70), 2]]], 402)


# ---- words


def test_a_word_is_one_unit_and_never_split(text, values):
    """Checked against the tokenizer's own word numbers."""
    for value in values["text"]:
        encoding = text.tokenizer.encode(value, add_special_tokens=False)
        content = text.collate([[text.read(value, 0, 1000, None)]], None)
        units = units_of(context_of(content), text, "word")[0, 1 : 1 + len(encoding.ids)].tolist()
        for (word, unit), (next_word, next_unit) in itertools.pairwise(zip(encoding.word_ids, units, strict=True)):
            assert word != next_word or unit == next_unit
        spaces = sum(text.tokenizer.id_to_token(number).startswith("Ġ") for number in encoding.ids)
        assert len(set(units)) == spaces + 1


def test_whole_words_are_hidden_or_shown(text, contents):
    masking = Masking(text, MaskingSettings(ratio=0.3, unit=component(Unit, "word")))
    content = contents("text")
    context = context_of(content)
    hidden, units = masking(context), units_of(context, text, "word")
    for row in range(len(units)):
        for number in units[row].unique():
            inside = (units[row] == number) & content.observed[row]
            assert hidden[row, inside].all() or not hidden[row, inside].any()


def test_words_and_ngrams_and_frequencies_have_no_meaning_for_images(image):
    for kind, name in ((Unit, "word"), (Unit, "ngram"), (Importance, "frequency")):
        with pytest.raises(ConfigError, match=f"'{name}' has a meaning for text only"):
            component(kind, name).build(image)


def test_an_ngram_is_made_of_whole_words_in_the_shares_that_are_set(text, long_row):
    shares = (0.5, 0.2, 0.0, 0.3)
    context = context_of(long_row, rows=300)
    words = units_of(context, text, "word")
    groups = units_of(context, text, "ngram", shares=shares)
    assert ((words[:, 1:] != words[:, :-1]) | (groups[:, 1:] == groups[:, :-1])).all()
    starts = torch.ones_like(words, dtype=torch.bool)
    starts[:, 1:] = words[:, 1:] != words[:, :-1]
    observed = context.content.observed
    sizes = torch.cat(
        [torch.bincount(row[start & seen])[1:-1] for row, start, seen in zip(groups, starts, observed, strict=True)]
    )
    counts = torch.bincount(sizes[sizes > 0], minlength=5)[1:].double()
    assert len(counts) == 4
    expected, total = torch.tensor(shares, dtype=torch.float64), counts.sum()
    assert ((counts / total - expected).abs() < 5 * (expected * (1 - expected) / total).sqrt() + 0.005).all()


# ---- spans


def lengths_of(units):
    """Lengths of the spans that lie whole inside the document: not its first, and not the one its end cuts."""
    lengths = [torch.bincount(row[1:-1] - row[1])[1:-1] for row in units]
    return torch.cat(lengths)


def test_geometric_spans_have_the_lengths_of_a_clipped_geometric_distribution(text, plain_row):
    units = units_of(context_of(plain_row, rows=300), text, "span", length=4, lengths="geometric", longest=9)
    counts = torch.bincount(lengths_of(units), minlength=10)[1:].double()
    expected = torch.tensor([0.25 * 0.75 ** (k - 1) for k in range(1, 9)] + [0.75**8], dtype=torch.float64)
    total = counts.sum()
    assert len(counts) == 9
    # spans that are cut by the row's end are the long ones: a small bias
    assert ((counts / total - expected).abs() < 5 * (expected * (1 - expected) / total).sqrt() + 0.003).all()


def test_spans_of_fixed_length_are_that_long_and_begin_at_any_phase(text, plain_row):
    units = units_of(context_of(plain_row, rows=200), text, "span", length=5, lengths="fixed")
    assert set(lengths_of(units).tolist()) == {5}
    first = torch.stack([(row[1:-1] == row[1]).sum() for row in units])
    counts = torch.bincount(first, minlength=6)[1:]
    assert (counts > 200 / 5 / 2).all()


def test_spans_of_length_one_are_tokens(text, plain_row):
    units = units_of(context_of(plain_row, rows=2), text, "span", length=1)
    assert torch.equal(units, torch.arange(402).expand(2, -1))


def overlapping(modality, ratio, length=10, **others):
    return Masking(
        modality, MaskingSettings(ratio=ratio, unit=component(Unit, "overlapping_span", length=length), **others)
    )


def test_as_many_overlapping_spans_begin_as_hubert_has(text, plain_row):
    """floor(0.08 T + u): both whole numbers beside it, as often as makes the mean; at different places."""
    context = context_of(plain_row, rows=2000)
    unit = overlapping(text, 0.8).unit
    spans = unit.spans(context, torch.full((2000,), 0.79, dtype=torch.float64))
    assert set(spans.number.tolist()) == {31, 32}  # 0.079 x 400 = 31.6
    assert abs(spans.number.double().mean() - 31.6) < 0.05
    assert spans.fits[0].nonzero().squeeze(1).tolist() == list(range(1, 391))  # T - 10 places: one more token follows


def test_overlapping_spans_cover_what_chance_says(text, plain_row):
    """A token is hidden if one of the ten places up to it is among 32 of 390."""
    hidden = overlapping(text, 0.8)(context_of(plain_row, rows=2000))
    chance = 1 - math.comb(380, 32) / math.comb(390, 32)
    assert abs(hidden[:, 11:390].double().mean() - chance) < 0.005
    runs = [len(list(run)) for row in hidden[:50].tolist() for there, run in itertools.groupby(row) if there]
    assert min(runs) == 10
    assert max(runs) > 20
    firsts = torch.stack([row.nonzero()[0] for row in hidden])
    assert len(firsts.unique()) > 20  # any phase


def test_few_frames_have_two_spans_and_fewer_than_a_span_single_tokens(text):
    rows = [[np.r_[0, np.full(size, 70), 2]] for size in (12, 8)]
    context = context_of(text.collate(rows, 14))
    masking = overlapping(text, 0.1)
    for seed in range(20):
        hidden = masking(context._replace(draw=context.draw + seed))
        assert hidden[0, 1:13].sum() in (11, 12) if hidden[0, 12] else hidden[0, 1:13].sum() == 11
        assert hidden[1].sum() == 1


def test_overlapping_spans_never_leave_their_document(text):
    content = text.collate([[np.r_[0, np.full(30, 70), 2], np.r_[0, np.full(25, 71), 2]]], 64)
    masking, context = overlapping(text, 0.5, length=8), context_of(content, rows=200)
    hidden = masking(context)
    for row in hidden:
        for first, last in ((1, 31), (33, 58)):
            runs = [len(list(run)) for there, run in itertools.groupby(row[first:last].tolist()) if there]
            assert all(run >= 8 for run in runs)
    assert not (hidden & ~(content.valid & content.observed)).any()


def test_overlapping_spans_keep_to_no_budget_that_streams_share(text):
    with pytest.raises(ConfigError, match=r"'overlapping_span' needs a ratio of the stream's own.*'dirichlet'"):
        overlapping(text, component(Ratio, "dirichlet"))


def test_no_row_is_made_up_of_overlapping_spans(text):
    unit = component(Unit, "stream", otherwise=component(Unit, "overlapping_span", length=3))
    with pytest.raises(ConfigError, match=r"otherwise: spans of 'overlapping_span' overlap.*use 'span'"):
        Masking(text, MaskingSettings(ratio=0.5, unit=unit))


# ---- blocks


def test_blocks_are_squares_of_neighbouring_patches_cut_off_at_the_borders(image, full_contents):
    context = context_of(full_contents("image"))
    for size in (1, 2, 3, 8):
        units = units_of(context, image, "block", size=size)
        assert (units[:, 1:] != units[:, :1]).all()  # the class token is a unit of its own
        for grid in units[:, 1:].view(-1, 8, 8):
            rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
            for number in grid.unique():
                row, column = rows[grid == number], columns[grid == number]
                height, width = (int(axis.max() - axis.min()) + 1 for axis in (row, column))
                assert len(row) == height * width
                inside = row.min() > 0 and row.max() < 7 and column.min() > 0 and column.max() < 7
                assert (height, width) == (size, size) or not inside
                assert max(height, width) <= size


def test_blocks_begin_at_every_phase(image, full_contents):
    units = units_of(context_of(full_contents("image"), rows=200), image, "block", size=2)[:, 1:].view(-1, 8, 8)
    whole = (units[:, 0, 0] == units[:, 1, 0]).double().mean()
    assert abs(whole - 0.5) < 0.15


def test_a_grid_has_the_patches_with_the_same_remainders(image, full_contents):
    units = units_of(context_of(full_contents("image")), image, "grid", size=3)
    row, column = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    for grid in units[:, 1:].view(-1, 8, 8):
        same = grid.flatten().unsqueeze(0) == grid.flatten().unsqueeze(1)
        remainders = 3 * (row.flatten() % 3) + column.flatten() % 3
        assert torch.equal(same, remainders.unsqueeze(0) == remainders.unsqueeze(1))
    assert (units[:, 1:] != units[:, :1]).all()


def test_three_of_four_grids_hidden_leave_every_fourth_patch(image, full_contents):
    """MAE's grid-wise sampling; which of the four grids is shown, every picture draws for itself."""
    masking = Masking(image, MaskingSettings(ratio=0.75, unit=component(Unit, "grid", size=2)))
    shown = ~masking(context_of(full_contents("image"), rows=80))[:, 1:].view(-1, 8, 8)
    assert (shown.sum((1, 2)) == 16).all()
    first = shown[:, :2, :2]
    assert (first.sum((1, 2)) == 1).all()
    assert torch.equal(shown, first.repeat(1, 4, 4))
    assert (first.sum(0) > 80 / 8).all()


@pytest.mark.parametrize("unit", ["block", "grid"])
def test_blocks_and_grids_have_a_meaning_for_images_only(text, unit):
    with pytest.raises(ConfigError, match=f"unit '{unit}' has a meaning for images only; use token or span"):
        component(Unit, unit).build(text)


@pytest.mark.parametrize("unit", ["block", "grid"])
def test_a_unit_larger_than_the_picture_is_refused(image, unit):
    with pytest.raises(ConfigError, match="size: expected 1 to 8 patches, got 9"):
        component(Unit, unit, size=9).build(image)


# ---- importance and the weighted draw


def hidden_of(weight, budget, rows=20000, units=None):
    """Which of n tokens are hidden, for many draws."""
    size = len(weight)
    units = torch.arange(size) if units is None else units
    weights = torch.tensor(weight, dtype=torch.float64).expand(rows, -1)
    maskable = torch.ones(rows, size, dtype=torch.bool)
    budgets = torch.full((rows,), budget)
    return choose_units(units.expand(rows, -1), maskable, budgets, weights, torch.arange(rows))


def exact_inclusion(weight, count):
    """Probability that each item is among `count` drawn one after the other in proportion to what is left."""
    inclusion = np.zeros(len(weight))
    for order in itertools.permutations(range(len(weight)), count):
        left, probability = sum(weight), 1.0
        for item in order:
            probability *= weight[item] / left
            left -= weight[item]
        inclusion[list(order)] += probability
    return torch.from_numpy(inclusion)


@pytest.mark.parametrize("budget", [1, 2, 3])
def test_the_draw_is_weighted_sampling_without_replacement(budget):
    weight = (1.0, 2.0, 0.5, 4.0, 3.0)
    share = hidden_of(weight, budget).double().mean(0)
    expected = exact_inclusion(weight, budget)
    assert ((share - expected).abs() < 4.5 * (expected * (1 - expected) / 20000).sqrt()).all()


def test_a_weight_of_zero_is_hidden_only_when_nothing_else_is_left():
    assert not hidden_of((1.0, 0.0, 1.0, 1.0), 3, rows=500)[:, 1].any()
    assert (hidden_of((0.0, 0.0, 0.0), 2, rows=500).sum(1) == 2).all()


def test_a_unit_weighs_the_mean_of_its_tokens():
    hidden = hidden_of((3.0, 1.0, 1.0), 2, units=torch.tensor([0, 0, 1]))
    first = hidden[:, 0].double().mean()  # mean weight 2 against 1; the budget holds the pair, or the single token
    alone = (hidden[:, 2] & ~hidden[:, 0]).double().mean()
    assert torch.equal(hidden[:, 0], hidden[:, 1])
    assert abs(first - 2 / 3) < 0.02
    assert abs(alone - 1 / 3) < 0.02


def test_only_the_maskable_tokens_of_a_unit_are_hidden():
    units, maskable = torch.tensor([[0, 0, 1, 1]]), torch.tensor([[True, False, True, False]])
    hidden = choose_units(units, maskable, torch.tensor([1]), None, torch.tensor([5]))
    assert int(hidden.sum()) == 1
    assert not (hidden & ~maskable).any()


@pytest.mark.parametrize(("power", "odds"), [(0.0, 1.0), (0.5, 3.0), (1.0, 9.0)])
def test_rare_tokens_are_preferred_with_the_odds_of_their_counts(text, power, odds):
    """Two ids, one seen nine times as often as the other, one of two tokens hidden."""
    counts = [1] * text.vocabulary
    counts[70], counts[71] = 9, 1
    toy = type(text)(
        text.facts.__class__(text.facts.folder, text.facts.values, {"token_counts": counts}), max_length=64
    )
    content = toy.collate([[np.array([0, 70, 71, 2])]], 4)
    importance = component(Importance, "frequency", power=power)
    masking = Masking(toy, MaskingSettings(ratio=0.5, importance=importance))
    hidden = masking(context_of(content, rows=20000)).double().mean(0)
    assert abs(hidden[2] - odds / (1 + odds)) < 0.015
    assert abs(hidden[1] - 1 / (1 + odds)) < 0.015


def test_a_given_table_weighs_every_id(text, tmp_path):
    weights = np.ones(text.vocabulary)
    weights[70], weights[71] = 0.0, 4.0
    np.save(tmp_path / "weights.npy", weights)
    importance = component(Importance, "table", file=str(tmp_path / "weights.npy"))
    masking = Masking(text, MaskingSettings(ratio=0.3, importance=importance))
    content = text.collate([[np.array([0, 70, 71, 72, 2])]], 5)
    hidden = masking(context_of(content, rows=20000)).double().mean(0)
    assert hidden[1] == 0
    assert abs(hidden[2] - 0.8) < 0.015
    assert abs(hidden[3] - 0.2) < 0.015


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        (np.ones(3), "has shape (3,), expected"),
        (None, "has negative or non-finite weights"),
        (np.array([{}], dtype=object), "can't be read as a NumPy array"),
    ],
)
def test_a_table_that_can_not_be_used_is_refused_with_a_sentence(text, tmp_path, weights, sentence):
    file = tmp_path / "weights.npy"
    np.save(file, np.full(text.vocabulary, -1.0) if weights is None else weights, allow_pickle=True)
    with pytest.raises(ConfigError) as caught:
        component(Importance, "table", file=str(file)).build(text)
    assert sentence in str(caught.value)


# ---- ratios and the budget


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_a_schedule_goes_from_start_to_end(shape):
    ratio = component(Ratio, "schedule", start=0.6, end=0.2, shape=shape).build()
    assert ratio.constant(0.0) == pytest.approx(0.6)
    assert ratio.constant(0.5) == pytest.approx(0.4)
    assert ratio.constant(1.0) == ratio.constant(1.5) == pytest.approx(0.2)
    quarter = 0.5 if shape == "linear" else 0.6 - 0.4 * (1 - math.cos(math.pi / 4)) / 2
    assert ratio.constant(0.25) == pytest.approx(quarter)


def test_a_schedule_changes_how_much_is_hidden_as_the_run_goes_on(image, full_contents):
    ratio = component(Ratio, "schedule", start=0.25, end=0.75)
    masking = Masking(image, MaskingSettings(ratio=ratio))
    context = context_of(full_contents("image"))
    for progress, hidden in ((0.0, 16), (0.5, 32), (1.0, 48)):
        assert (masking(context._replace(progress=progress)).sum(1) == hidden).all()
        assert masking.count(context.content, progress) == hidden


def test_a_uniform_ratio_draws_a_share_for_every_row(plain_row):
    context = context_of(plain_row, 1)._replace(draw=torch.arange(20000))
    share = component(Ratio, "uniform", low=0.2, high=0.6).build().share(context)
    assert share.min() > 0.2
    assert share.max() < 0.6
    assert abs(share.mean() - 0.4) < 0.005
    assert abs(share.std() - 0.4 / 12**0.5) < 0.005


@pytest.mark.parametrize(
    ("tokens", "share", "hidden"),
    [
        (196, 0.75, 147),
        (144, 0.75, 108),
        (49, 0.75, 37),
        (10, 0.9, 9),
        (20, 0.9, 18),
        (10, 0.15, 2),
        (1, 0.5, 1),
        (2, 0.99, 1),
    ],
)
def test_rounding_up_hides_what_mae_hides(text, tokens, share, hidden):
    content = text.collate([[np.r_[0, np.full(tokens, 70), 2]]], tokens + 2)
    masking = Masking(text, MaskingSettings(ratio=share))
    assert int(masking(context_of(content)).sum()) == hidden
    assert masking.count(content, 0.0) == hidden


def test_dither_hides_the_share_on_average_in_rows_too_short_for_it(text):
    content = text.collate([[np.r_[0, np.full(13, 70), 2]]], 15)
    masking = Masking(text, MaskingSettings(ratio=0.15, rounding="dither"))
    hidden = masking(context_of(content, rows=20000)).sum(1)
    assert set(hidden.tolist()) == {1, 2}
    assert abs(hidden.double().mean() - 1.95) < 0.01
    assert masking.count(content, 0.0) is None


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.2, 15.0])
def test_a_share_that_is_none_is_refused(ratio):
    with pytest.raises(ValueError, match="ratio: expected a share between 0 and 1"):
        MaskingSettings(ratio=ratio)


def test_every_token_is_hidden_as_often_as_every_other(image, full_contents):
    masking = Masking(image, MaskingSettings(ratio=0.25))
    share = masking(context_of(full_contents("image"), rows=4000))[:, 1:].double().mean(0)
    assert ((share - 0.25).abs() < 5 * (0.25 * 0.75 / 4000) ** 0.5).all()


def test_the_mask_shares_no_numbers_with_other_purposes(image, full_contents):
    """A kept token's lot must not depend on its being hidden."""
    masking = Masking(image, MaskingSettings(ratio=0.25))
    context = context_of(full_contents("image"), rows=2000)
    hidden = masking(context)
    lot = uniform_rows(context.draw, hidden.shape[1], "keep or random")
    assert abs(lot[hidden].mean() - 0.5) < 0.01
