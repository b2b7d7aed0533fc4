"""Laboratory tables: what is read, what is refused, and that nothing depends on what was not measured."""

import dataclasses
import pickle
import types

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from mmpt.config import component
from mmpt.data.source import row_draw
from mmpt.encoders import Facts
from mmpt.encoders.image import Image
from mmpt.encoders.labs import Labs
from mmpt.errors import ConfigError, DataError
from mmpt.model import Backbone, MaskedModel
from mmpt.objectives import Objective
from mmpt.objectives.targets.cells import CellsTarget
from mmpt.tokens import Batch, Content, StreamContext
from mmpt.trunk import Trunk
from tests.encoders.labs_material import labs_facts, labs_modality, labs_row, labs_values

DECODER = {"type": "decoder", "width": 16, "depth": 2, "heads": 2}
CROSS = {"type": "cross_decoder", "width": 16, "depth": 2, "heads": 2}
WAYS = [
    ("drop", DECODER),
    ("drop", CROSS),
    ("replace", {"type": "mlp"}),
    ({"type": "replace", "keep": 0.2, "random": 0.3}, DECODER),
    ("replace", CROSS),
]
VALUES = ("linear", "mlp", "quantile")
GARBAGE = (0.0, float("nan"), 1e9, float("-inf"))


@pytest.fixture(scope="module")
def labs(tmp_path_factory):
    return labs_modality(tmp_path_factory.mktemp("labs"))


@pytest.fixture
def model_of(labs, randomised):
    """`model_of("drop", DECODER, values="mlp")`: a tiny model of the tables alone, with random weights."""

    def make(corruption="drop", predictor=CROSS, values="linear", modality=labs, **changes):
        modality = dataclasses.replace(modality, values=values)
        backbone = Backbone({"labs": modality}, component(Trunk, "transformer", width=16, depth=2, heads=2).build(1))
        stream = {"masking": {"ratio": 0.5}, "corruption": corruption, "predictor": predictor, "target": "cells"}
        streams = {"labs": stream | changes}
        objective = component(Objective, "masked_prediction", streams=streams).build(backbone, {"labs": modality})
        return randomised(MaskedModel(backbone, objective)).eval()

    return make


def batch_of(content, seed=0):
    uid = torch.arange(len(content.valid))
    return Batch({"labs": content}, uid, row_draw(seed, torch.zeros_like(uid), uid), "tests", 0)


def read(labs, *rows):
    return [labs.read(row, 0, labs.limit, None) for row in rows]


def content_of(labs, rows, size=None):
    return labs.collate([[cells] for cells in read(labs, *rows)], size)


def number_of(labs, name):
    return next(number for number, column in enumerate(labs.columns) if column.name == name)


def cells(*pairs):
    return np.array(pairs, dtype=np.float64).reshape(-1, 2)


# ---- reading


def test_numbers_are_standardised_and_clipped_by_the_training_statistics_alone(labs):
    place = number_of(labs, "potassium")
    measured = labs.facts.statistics["columns"][place]
    mean, std, low, high = (measured[key] for key in ("mean", "std", "low", "high"))
    for value, expected in ((mean, 0.0), (mean + std, 1.0), (1e12, (high - mean) / std), (-5.0, (low - mean) / std)):
        ((column, number),) = labs.read(cells((place, value)), 0, 1, None)
        assert column == place
        assert number == pytest.approx(expected, abs=1e-5)
    shifted = [{**own, "mean": own["mean"] + 1} if "mean" in own else own for own in labs.facts.statistics["columns"]]
    other = Labs(Facts(labs.facts.folder, labs.facts.values, {"columns": shifted}))
    assert other.read(cells((place, mean + 1)), 0, 1, None)[0, 1] == pytest.approx(0)
    batches = [content_of(labs, rows).values[0] for rows in ([labs_row(1)], [labs_row(1), labs_row(2)])]
    assert torch.equal(*batches)  # what else is in the batch says nothing


def test_standardised_numbers_come_back_in_their_own_units(labs):
    row = labs_row(3)
    row[:, 1] += 0.001
    kinds = np.array([bool(column.categories) for column in labs.columns])
    row[kinds, 1] = 1
    ((column, number),) = [read(labs, row)[0].T]
    assert_close(labs.original(number.astype(np.float64), column.astype(int)), row[:, 1], rtol=1e-5, atol=1e-5)


def test_categories_stay_numbers(labs):
    place = number_of(labs, "rhesus")
    assert labs.read(cells((place, 2)), 0, 1, None).tolist() == [[place, 2]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (cells((0, np.nan)), "column 'sodium': expected a finite number .*, got nan"),
        (cells((1, np.inf)), "column 'potassium': expected a finite number .*, got inf"),
        (cells((16, 1.0)), "columns 0 to 15, got column 16"),
        (cells((-1, 1.0)), "columns 0 to 15, got column -1"),
        (cells((0.5, 1.0)), "columns 0 to 15, got column 0.5"),
        (cells((np.nan, 1.0)), "columns 0 to 15, got column nan"),
        (cells((5, 2)), "column 'sex': expected the number of a category, 0 to 1, got 2"),
        (cells((5, 0.5)), "column 'sex': expected the number of a category, 0 to 1, got 0.5"),
        (cells((5, -1)), "column 'sex': expected the number of a category, 0 to 1, got -1"),
        (cells((5, np.nan)), "column 'sex': expected the number of a category, 0 to 1, got nan"),
        (cells((2, 1.0), (1, 1.0)), "each column once and in order, got columns 2, 1"),
        (cells((2, 1.0), (2, 1.0)), "each column once and in order, got columns 2, 2"),
        (np.zeros(4), r"rows, got float64 of shape \(4,\)"),
        (np.zeros((3, 3)), r"rows, got float64 of shape \(3, 3\)"),
        (np.array([["a", "b"]]), "rows, got <U1"),
        ([[0, 1.0]], "rows, got list"),
    ],
)
def test_a_row_that_is_none_of_this_table_is_refused_with_a_sentence(labs, value, message):
    with pytest.raises(DataError, match=message):
        labs.read(value, 0, labs.limit, None)


def test_rows_without_a_cell_and_with_one_are_rows(labs):
    assert labs.pieces(0) == []
    assert labs.pieces(7) == [(0, 7)]
    empty, one = read(labs, cells(), cells((3, 100.0)))
    assert (len(empty), len(one)) == (labs.num_tokens(0, 0), labs.num_tokens(0, 1)) == (0, 1)
    content = labs.collate([[empty], [one], []], None)
    assert content.valid.tolist() == [[False], [True], [False]]
    assert not content.full
    assert labs.collate([[one], [one]], None).observed_count == 1


def test_packed_rows_hold_documents_of_their_own(labs):
    first, second = read(labs, labs_row(0, 10), labs_row(1, 12))
    packed = labs.collate([[first, second]], 12)
    assert packed.segment[0].tolist() == [0] * 6 + [1] * 4 + [0] * 2
    assert packed.valid.sum() == 10
    assert not packed.full
    assert packed.place[0, 6:10].tolist() == second[:, 0].tolist()


def test_token_names_are_columns_and_units(labs):
    content = content_of(labs, [cells((0, 140), (5, 1)), cells((2, 1.0))])
    assert labs.token_names(content, 0) == ["sodium [mmol/l]", "sex"]
    assert labs.token_names(content, 1) == ["creatinine [mg/dl]", ""]


# ---- what users hand over


def test_dicts_series_and_arrays_become_the_same_row(labs):
    row = {"sex": "male", "glucose": 90, "sodium": 140.5, "urea": None, "lactate": float("nan"), "calcium": np.nan}
    expected = cells((0, 140.5), (3, 90.0), (number_of(labs, "sex"), 1))
    series = types.SimpleNamespace(to_dict=lambda: row)
    for value in (row, series, expected[::-1], {**row, "glucose": np.float32(90), "urea": np.float32("nan")}):
        assert np.array_equal(labs.convert(value), expected)
    assert labs.convert({}).shape == (0, 2)
    assert labs.convert({"sodium": None}).shape == (0, 2)


def test_a_pandas_series_is_a_row_and_its_missing_values_are_missing(labs):
    pandas = pytest.importorskip("pandas")
    series = pandas.Series({"sodium": 140, "glucose": pandas.NA, "urea": pandas.NaT, "sex": "female"}, dtype=object)
    assert np.array_equal(labs.convert(series), cells((0, 140), (number_of(labs, "sex"), 0)))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"creatinin": 1.0}, "no column 'creatinin'; did you mean 'creatinine'"),
        ({"xyz": 1.0}, "no column 'xyz'; there are sodium, potassium"),
        ({3: 1.0}, "no column '3'; there are sodium"),
        ({"sodium": "140"}, "column 'sodium': expected a number, got '140'"),
        ({"sodium": True}, "column 'sodium': expected a number, got True"),
        ({"sodium": {"a": 1}}, "column 'sodium': expected a number"),
        ({"sodium": float("inf")}, "column 'sodium': expected a finite number"),
        ({"sex": "m"}, "column 'sex': expected one of female, male, got 'm'"),
        ({"sex": 1}, "column 'sex': expected one of female, male, got 1"),
        ("sodium", "expected a dict of values by column, .* got str"),
        (np.zeros(3), r"expected a dict .* got float64 of shape \(3,\)"),
        (np.zeros((2, 2)), "each column once and in order, got columns 0, 0"),
        (np.zeros((2, 0)), r"got float64 of shape \(2, 0\)"),
    ],
)
def test_what_a_user_hands_over_is_refused_with_a_sentence(labs, value, message):
    with pytest.raises(DataError, match=message):
        labs.convert(value)


# ---- facts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda columns, _: columns.clear(), "does not say which columns"),
        (lambda _, statistics: statistics.pop(), "has 16 columns and statistics of 15"),
        (lambda columns, _: columns[1].update(name="sodium"), "two columns are named 'sodium'"),
        (lambda columns, _: columns[1].update(kind="number"), "column 'potassium': expected kind numeric"),
        (lambda columns, _: columns[5].update(categories=[]), "column 'sex': expected kind numeric"),
        (lambda _, statistics: statistics[0].pop("mean"), "column 'sodium': facts or statistics that can't be used"),
        (lambda _, statistics: statistics[0].update(mean=None), "column 'sodium': facts or statistics"),
        (lambda _, statistics: statistics[0].update(std=0.0), "column 'sodium': facts or statistics"),
        (lambda _, statistics: statistics[0].update(quantiles=[1.0, 2.0]), "as many quantiles of every numeric column"),
    ],
)
def test_facts_that_do_not_tell_what_is_needed_are_refused_at_once(tmp_path, change, message):
    facts = labs_facts(tmp_path)
    change(facts.values["columns"], facts.statistics["columns"])
    with pytest.raises(ConfigError, match=message):
        Labs(facts)


def test_the_target_has_a_meaning_for_labs_only(tmp_path):
    with pytest.raises(ConfigError, match="target 'cells' has a meaning for labs only"):
        CellsTarget(Image(Facts(tmp_path), size=8, patch=4))


def test_a_modality_that_was_used_pickles(labs):
    read(labs, labs_row(0))
    assert np.array_equal(read(pickle.loads(pickle.dumps(labs)), labs_row(0))[0], read(labs, labs_row(0))[0])


# ---- what is not there


@pytest.mark.parametrize(
    ("corruption", "predictor", "values"),
    [*((*way, "linear") for way in WAYS), ("drop", CROSS, "mlp"), (WAYS[3][0], DECODER, "quantile")],
)
def test_the_loss_is_bit_identical_whatever_stands_where_no_cell_is(labs, model_of, corruption, predictor, values):
    model = model_of(corruption, predictor, values).requires_grad_(True)
    content = content_of(labs, [*labs_values(6), cells(), cells((3, 120.0))])
    for row in range(4):  # absent in the middle of a row, as in a table with all columns
        content.valid[row, 2 + row] = content.observed[row, 2 + row] = False
    results = []
    for garbage in GARBAGE:
        values_there = torch.where(content.valid, content.values, garbage)
        batch = batch_of(content._replace(values=values_there))
        hidden = model.hide(batch, 0.5)
        step = model(batch, hidden, 0.5)
        model.zero_grad()
        step.losses["labs"].total.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        results.append(
            [step.losses["labs"].total.detach(), step.losses["labs"].rows, hidden["labs"].hidden, *gradients]
        )
    assert results[0][0] > 0
    for other in results[1:]:
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(results[0], other, strict=True))


@pytest.mark.parametrize(("corruption", "predictor"), WAYS)
def test_padding_behind_a_row_changes_nothing_of_its_loss(labs, model_of, corruption, predictor):
    model = model_of(corruption, predictor)
    rows = labs_values(6)
    together = batch_of(content_of(labs, rows, 16))
    every = model(together, model.hide(together, 0.5), 0.5).losses["labs"].rows
    for number, row in enumerate(rows):
        alone = batch_of(content_of(labs, [row]))._replace(draw=together.draw[number : number + 1])
        loss = model(alone, model.hide(alone, 0.5), 0.5).losses["labs"].rows
        assert_close(loss[0], every[number], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("corruption", "predictor"), WAYS)
def test_rows_of_no_cell_and_of_one_have_finite_losses_and_gradients(labs, model_of, corruption, predictor):
    model = model_of(corruption, predictor).requires_grad_(True)
    for rows in ([cells()], [cells((3, 120.0))], [cells(), cells((5, 1))], [cells(), cells((3, 120.0)), labs_row(0)]):
        batch = batch_of(content_of(labs, rows))
        hidden = model.hide(batch, 0.5)
        assert torch.equal(hidden["labs"].hidden.any(1), torch.tensor([len(row) > 0 for row in rows]))
        step = model(batch, hidden, 0.5)
        assert step.losses["labs"].rows.isfinite().all()
        assert (step.losses["labs"].rows > 0).tolist() == [len(row) > 0 for row in rows]
        model.zero_grad()
        step.losses["labs"].total.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("ratio", [0.15, 0.5, 0.75, 0.95])
def test_only_observed_cells_are_hidden_and_one_stays(labs, model_of, ratio):
    model = model_of(masking={"ratio": ratio})
    content = content_of(labs, [*labs_values(8), cells((1, 4.0), (5, 0))])
    content.valid[0, 3] = content.observed[0, 3] = False
    for seed in range(5):
        hidden = model.hide(batch_of(content, seed), 0.5)["labs"].hidden
        assert not (hidden & ~content.observed).any()
        assert (content.observed & ~hidden).any(1).all()
        assert hidden.any(1).all()


@pytest.mark.parametrize(("corruption", "predictor"), [("drop", DECODER), ("drop", CROSS), ("replace", DECODER)])
def test_what_a_hidden_cell_holds_reaches_no_prediction(labs, model_of, corruption, predictor):
    model = model_of(corruption, predictor)
    batch = batch_of(content_of(labs, labs_values(6)))
    hidden, content = model.hide(batch, 0.5), batch.streams["labs"]
    other = content._replace(values=torch.where(hidden["labs"].hidden, 1 - content.values, content.values))
    before = model.objective.predict(model.backbone, batch, hidden)["labs"].prediction
    after = model.objective.predict(model.backbone, batch._replace(streams={"labs": other}), hidden)["labs"].prediction
    assert torch.equal(before, after)


# ---- columns


@pytest.mark.parametrize(("predictor", "values"), [(DECODER, "quantile"), (CROSS, "linear")])
def test_columns_in_another_order_with_their_embeddings_give_the_same_loss(labs, model_of, predictor, values):
    order = torch.randperm(labs.limit, generator=torch.Generator().manual_seed(1))  # new column n is the old order[n]
    facts = labs.facts
    columns, statistics = ([own["columns"][n] for n in order] for own in (facts.values, facts.statistics))
    other = Labs(Facts(facts.folder, {"columns": columns}, {"columns": statistics}))
    model, permuted = model_of("drop", predictor, values), model_of("drop", predictor, values, other)
    _permute(model, permuted, order)
    batch, hidden = batch_of(content_of(labs, labs_values(6))), None
    hidden = model.hide(batch, 0.5)["labs"]
    moved, moved_hidden = _moved(batch.streams["labs"], hidden.hidden, order.argsort())
    again = hidden._replace(hidden=moved_hidden, scored=moved_hidden)
    loss = model(batch, {"labs": hidden}, 0.5).losses["labs"].rows
    other_loss = permuted(batch._replace(streams={"labs": moved}), {"labs": again}, 0.5).losses["labs"].rows
    assert_close(loss, other_loss, rtol=1e-4, atol=1e-4)


def _permute(model, permuted, order):
    """Give the second model the weights of the first, with columns and categories in their new places."""
    weights = dict(model.state_dict())
    categories = [number for n in order for number in _categories(model, int(n))]
    weights["backbone.encoders.labs.columns.weight"] = weights["backbone.encoders.labs.columns.weight"][order]
    name = "backbone.encoders.labs.values.categories.weight"
    weights[name] = weights[name][categories]
    for part in ("weight", "bias"):
        name = f"objective.streams.labs.predictor.head.{part}"
        weights[name] = weights[name][[0, *(1 + number for number in categories)]]
    permuted.load_state_dict(weights)
    places = permuted.objective.part("labs").predictor.places
    places.table = model.objective.part("labs").predictor.places.table[order]


def _categories(model, column):
    kinds = model.objective.part("labs").target.kinds
    return range(int(kinds.first[column]), int(kinds.first[column] + kinds.count[column]) * (not kinds.numeric[column]))


def _moved(content, hidden, new_number):
    """The same cells in the columns' new numbers, in order again."""
    place = torch.where(content.valid, new_number[content.place], 10**6)
    index = place.argsort(dim=1)
    values, valid, observed, segment = (tensor.gather(1, index) for tensor in content[:4])
    place = torch.where(valid, place.gather(1, index), 0)
    return Content(values, valid, observed, segment, place), hidden.gather(1, index)


@pytest.mark.parametrize("values", VALUES)
def test_every_number_and_every_category_has_a_vector_of_its_own(labs, values, randomised):
    encoder = randomised(dataclasses.replace(labs, values=values).encoder(16))
    grid = np.linspace(-1.5, 1.5, 9)
    content = content_of(labs, [cells((2, labs.original(np.array([z]), np.array([2]))[0])) for z in grid])
    x = encoder(content).x[:, 0]
    assert torch.cdist(x, x)[~torch.eye(9, dtype=torch.bool)].min() > 1e-3
    categories = [(column, n) for column in (5, 15) for n in range(len(labs.columns[column].categories))]
    x = encoder(content_of(labs, [cells(cell) for cell in categories])).x[:, 0]
    assert torch.cdist(x, x)[~torch.eye(5, dtype=torch.bool)].min() > 1e-3


def test_piecewise_linear_encoding_fills_the_bins_below_a_value(labs):
    numbers = dataclasses.replace(labs, values="quantile").encoder(16).values.numbers
    torch.nn.init.eye_(numbers.projection.weight)
    edges = numbers.edges[2]
    value = edges[5] + 0.25 * (edges[6] - edges[5])
    filled = numbers(value.view(1, 1), torch.tensor([[2]]))[0, 0]
    assert_close(filled, torch.tensor([1.0] * 5 + [0.25] + [0.0] * 10), rtol=0, atol=1e-5)
    numbers.edges[2, 4:9] = edges[4]  # half of the values are the same
    for above, expected in ((-1e-3, 0.0), (1e-3, 1.0)):
        filled = numbers((edges[4] + above).view(1, 1), torch.tensor([[2]]))[0, 0]
        assert filled.isfinite().all()
        assert (filled[4:8] == expected).all()


def test_random_content_is_what_the_column_has(labs):
    encoder = labs.encoder(16)
    content = content_of(labs, [labs_row(0)] * 500)
    choice = torch.rand(content.valid.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    given = []
    encoder.values.register_forward_hook(lambda _, arguments, __: given.append(arguments[0]))
    encoder.substitute(content, choice)
    for number, column in enumerate(labs.columns):
        drawn = given[0][:, number].double()
        if column.categories:
            assert drawn.unique().tolist() == list(range(len(column.categories)))
        else:
            assert float(drawn.mean()) == pytest.approx(0, abs=0.2)
            assert float(drawn.std()) == pytest.approx(1, abs=0.3)  # straight lines between quantiles
            assert column.edges[0] - 1e-5 <= float(drawn.min()) <= float(drawn.max()) <= column.edges[-1] + 1e-5


# ---- the target


def test_a_number_is_scored_by_squared_error_and_a_category_among_its_own_columns(labs):
    target = CellsTarget(labs)
    assert target.size == 1 + 2 + 3
    sex, rhesus = number_of(labs, "sex"), number_of(labs, "rhesus")
    content = content_of(labs, [cells((0, 138.0), (sex, 1), (rhesus, 2))])
    values = target(StreamContext(content, torch.zeros(1, dtype=torch.int64), 0.5))[0]
    assert values[1:].tolist() == [[1, sex], [4, rhesus]]
    prediction = torch.tensor([[0.5, 9, 9, 9, 9, 9], [7.0, 0, 1, 50, 50, 50], [7.0, 50, 50, 0, 1, 2]])
    loss = target.loss(prediction, values)
    assert loss[0] == pytest.approx(float((0.5 - values[0, 0]) ** 2))
    assert loss[1] == pytest.approx(float(-torch.tensor([0.0, 1.0]).log_softmax(0)[1]))
    assert loss[2] == pytest.approx(float(-torch.tensor([0.0, 1.0, 2.0]).log_softmax(0)[2]))
    assert target.likeliest(prediction, values[:, 1].long()).tolist() == [0.5, 1, 2]


def test_what_is_true_of_a_cell_that_is_not_there_is_0_whatever_stands_there(labs):
    content = content_of(labs, [labs_row(0), cells((5, 1))])
    draw = torch.zeros(2, dtype=torch.int64)
    for garbage in GARBAGE:
        other = content._replace(values=torch.where(content.valid, content.values, garbage))
        assert not CellsTarget(labs)(StreamContext(other, draw, 0.5))[1, 1:].any()


@pytest.mark.parametrize("kind", ["numeric", "categorical"])
def test_tables_of_one_kind_of_column_train(labs, model_of, kind):
    chosen = [n for n, column in enumerate(labs.facts.values["columns"]) if column["kind"] == kind]
    facts = labs.facts
    columns, statistics = ([own["columns"][n] for n in chosen] for own in (facts.values, facts.statistics))
    one_kind = Labs(Facts(facts.folder, {"columns": columns}, {"columns": statistics}))
    model = model_of({"type": "replace", "random": 0.5}, DECODER, modality=one_kind).requires_grad_(True)
    rows = [np.stack([np.arange(len(chosen)), np.ones(len(chosen))], axis=1)] * 2
    batch = batch_of(content_of(one_kind, rows))
    step = model(batch, model.hide(batch, 0.5), 0.5)
    step.losses["labs"].total.backward()
    assert step.losses["labs"].rows.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_hidden_cells_are_learned_from_the_others(labs, model_of):
    """Two columns that say the same: a few steps suffice to read one off the other."""
    torch.manual_seed(0)
    model = model_of("drop", CROSS).train().requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    generator = np.random.default_rng(0)
    z = generator.normal(size=256).clip(-2, 2)
    rows = [cells(*((n, labs.original(np.array([own]), np.array([n]))[0]) for n in (0, 1))) for own in z]
    batch = batch_of(content_of(labs, rows))
    losses = []
    for seed in range(120):
        batch = batch_of(batch.streams["labs"], seed)
        hidden = model.hide(batch, 0.5)
        loss = model(batch, hidden, 0.5).losses["labs"].total / hidden["labs"].denominator
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.15 < 0.5 < losses[0]
