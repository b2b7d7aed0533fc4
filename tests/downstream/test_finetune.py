"""Fine-tuning: what is learned, from which kinds of samples, what is kept, and what is refused."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from walks import CLASSES, walk

import mmpt
from mmpt.errors import CheckpointError, ConfigError, DataError
from mmpt.finetune import Classifier, MultiLabel, Regressor, load
from mmpt.finetune.examples import examples_of
from mmpt.finetune.objective import NAME
from mmpt.finetune.rows import Rows, share_of
from mmpt.finetune.saved import load_result
from mmpt.report.fit import write_fit_report

QUICK = {"epochs": 1, "batch_size": 16}


@pytest.fixture(scope="module")
def encoder(run):
    return mmpt.load(run)


@pytest.fixture
def task(encoder):
    return Classifier(encoder, label="place")


def records(numbers, *, label=True):
    """What the shards hold, as dicts."""
    samples = []
    for number in numbers:
        sample = walk(number)
        own = {name: sample[name] for name in ("image", "text") if name in sample}
        samples.append(own | ({"place": sample["labels"]["place"], "group": sample["__group__"]} if label else {}))
    return samples


# ---- what is learned


@pytest.fixture(scope="module")
def fitted(encoder, shards):
    """All of the model, on pictures and texts; some samples lack the text."""
    task = Classifier(encoder, label="place")
    return task.fit(shards, test=shards, epochs=6, batch_size=16, learning_rate=5e-3, seed=3)


def test_a_classifier_learns_and_says_how_well(fitted):
    assert fitted.test["accuracy"].value > 0.9
    assert fitted.test["accuracy"].low <= fitted.test["accuracy"].value <= fitted.test["accuracy"].high
    assert fitted.trivial_test["accuracy"] < 0.65
    assert fitted.trivial_test["auroc"] == pytest.approx(0.5)
    assert fitted.samples == {"train": 180, "validation": 60, "test": 60}
    best = max(range(len(fitted.history)), key=lambda epoch: fitted.history[epoch]["accuracy"])
    assert fitted.history[fitted.best_epoch - 1]["accuracy"] == fitted.history[best]["accuracy"]
    assert fitted.metrics["accuracy"].value == pytest.approx(fitted.history[best]["accuracy"])
    assert "accuracy" in str(fitted)


def test_the_encoder_stays_as_it_was(encoder, fitted, run):
    fresh = mmpt.load(run)
    theirs = dict(fresh.backbone.named_parameters())
    assert all(torch.equal(p, theirs[name]) for name, p in encoder.backbone.named_parameters())
    assert not all(torch.equal(p, theirs[name]) for name, p in fitted.task.model.backbone.named_parameters())


def test_shards_records_columns_and_frames_are_one(fitted, shards):
    test = [number for number in range(300) if (number // 5) % 5 == 4]
    rows = records(test, label=False)
    expected = fitted.task.predict(shards / "test")
    assert set(expected) == set(CLASSES)
    frame = pd.DataFrame(rows)
    assert fitted.task.predict(rows) == expected
    assert fitted.task.predict(frame) == expected
    assert fitted.task.predict({"image": [row["image"] for row in rows]}) != []
    scores = fitted.task.evaluate(records(test))
    assert scores["accuracy"].value == fitted.test["accuracy"].value


def test_a_sample_may_lack_a_stream_and_is_alike_alone_and_in_a_batch(fitted):
    rows = records(range(12), label=False)
    together = fitted.task.predict_scores(rows)
    alone = [fitted.task.predict_scores([row])[0] for row in rows]
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    only = [{"text": row["text"]} for row in rows if "text" in row]
    assert len(fitted.task.predict(only)) == len(only)


def test_a_saved_task_predicts_the_same_and_embeds(fitted, tmp_path, shards):
    folder = fitted.save(tmp_path / "task")
    again = load(folder)
    assert again.facts == fitted.task.facts
    assert (again.predict_scores(shards) == fitted.task.predict_scores(shards)).all()
    assert mmpt.load(folder).encode(records(range(2), label=False), pool="mean").shape == (2, 16)
    with pytest.raises(ConfigError, match="holds a task already"):
        fitted.save(folder)


def test_a_saved_fit_has_a_page_with_scores_curves_and_confusions(fitted, tmp_path):
    fitted.save(tmp_path / "task")
    page = (tmp_path / "task" / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 5  # loss and four metrics
    assert str(fitted.test["auroc"]) in page
    counts = np.array(fitted.confusion)
    assert counts.sum() == 60
    assert np.trace(counts) / 60 == pytest.approx(fitted.test["accuracy"].value)
    for count in counts.ravel():
        assert f">{count}</span>" in page
    assert not re.search(r"<script|src=\"(?!data:)|href=\"http", page)
    again = load_result(tmp_path / "task")
    assert again.confusion == fitted.confusion
    write_fit_report(again, tmp_path / "task")
    assert (tmp_path / "task" / "report.html").read_text(encoding="utf-8") == page


def test_the_same_seed_gives_the_same_weights_and_another_does_not(encoder, shards):
    def weights(seed):
        task = Classifier(encoder, label="place", inputs=["text"])
        task.fit(shards, **QUICK, seed=seed)
        return task.model.state_dict()

    one, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_several_labels_at_once(encoder):
    train = [row | {"tags": [row["place"], "walk"]} for row in records(range(60))]
    validation = [row | {"tags": {row["place"]: True, "walk": False}} for row in records(range(60, 100))]
    result = MultiLabel(encoder, label="tags", inputs=["image"]).fit(
        train, validation, epochs=8, batch_size=8, learning_rate=1e-2
    )
    assert result.task.facts["names"] == ["hill", "sea", "walk"]
    assert result.metrics["macro_auroc"].value > 0.9
    assert result.trivial["macro_auroc"] == pytest.approx(0.5)
    assert all(set(names) <= {"hill", "sea", "walk"} for names in result.task.predict(validation))


def test_numbers_in_their_own_unit(encoder):
    def rows(numbers):
        return [row | {"height": 700.0 if row["place"] == "hill" else 300.0} for row in records(numbers)]

    result = Regressor(encoder, label="height", inputs=["image"]).fit(
        rows(range(60)), rows(range(60, 100)), epochs=8, batch_size=8, learning_rate=1e-2, metric="mae"
    )
    assert result.metrics["mae"].value < 0.6 * result.trivial["mae"]
    assert result.history[result.best_epoch - 1]["mae"] == min(epoch["mae"] for epoch in result.history)
    assert result.trivial["r2"] <= 0
    assert all(100 < height < 900 for height in result.task.predict(rows(range(60, 70))))


def test_patience_ends_a_fit(task, shards):
    result = task.fit(shards, epochs=30, batch_size=16, learning_rate=1e-9, patience=2)
    assert len(result.history) == result.best_epoch + 2 < 30


def test_samples_without_a_label_are_left_out_and_counted(encoder):
    train, validation = records(range(40)), records(range(60, 80))
    for row in train[:7]:
        row["place"] = None
    result = Classifier(encoder, label="place", inputs=["image"]).fit(train, validation, **QUICK)
    assert result.samples["train"] == 33
    assert "7 train samples have no label and were left out" in result.notes


# ---- rows


def test_rows_of_padding_count_nothing(fitted, shards):
    task = fitted.task
    examples = [task.read(row["place"]) for row in records(range(5))]
    rows = Rows(task, examples_of(records(range(5)), task.inputs, label="place", split="train"), examples)
    plain, padded = rows.batch(range(5)), rows.batch(range(5), padding=3)
    empty = rows.batch([], padding=2)
    for batch, labels in ((plain, 5.0), (padded, 5.0), (empty, 0.0)):
        assert task.model.hide(batch, 0.0)[NAME].denominator == labels
        assert set(batch.streams) == {"image", "text"}
    totals = [
        task.model(batch, task.model.hide(batch, 0.0), 0.0).losses[NAME].total for batch in (plain, padded, empty)
    ]
    torch.testing.assert_close(totals[0], totals[1])
    assert totals[2] == 0


@pytest.mark.parametrize(("size", "ranks"), [(8, 2), (7, 2), (1, 4), (32, 3)])
def test_ranks_share_a_batch_without_loss(size, ranks):
    batch = np.arange(size) + 100
    shares = [share_of(batch, rank, ranks) for rank in range(ranks)]
    assert [number for own, _ in shares for number in own] == batch.tolist()
    assert len({len(own) + padding for own, padding in shares}) == 1


# ---- what is refused


def test_groups_on_both_sides_are_refused_unless_allowed(task):
    train, validation = records(range(10)), records(range(9, 20))
    with pytest.raises(DataError, match=r"1 groups are in train and in validation .*day 1.*allow_shared_groups"):
        task.fit(train, validation, **QUICK)
    result = task.fit(train, validation, **QUICK, allow_shared_groups=True)
    assert "1 groups are in train and in validation: scores are too good" in result.notes


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"metric": "acuracy"}, "metric: expected a metric .*did you mean 'accuracy'"),
        ({"strategy": "fulll"}, "did you mean 'full'"),
        ({"epochs": 0}, "epochs: expected at least 1"),
        ({"deepspeed": {"zero_optimization": {"stage": 3}}}, "fine-tuning works with 0, 1 and 2"),
        ({"deepspeed": {"optimizer": {}}}, "deepspeed.optimizer: mmpt fills this in"),
    ],
)
def test_settings_without_sense_are_refused(task, shards, arguments, sentence):
    with pytest.raises((ConfigError, ValueError), match=sentence):
        task.fit(shards, **{**QUICK, **arguments})


def test_labels_that_can_not_be_learned_are_refused(encoder, shards):
    with pytest.raises(DataError, match="no sample has a label 'plce'; did you mean 'place'"):
        Classifier(encoder, label="plce").fit(shards, **QUICK)
    with pytest.raises(DataError, match="which are no classes; numbers are for Regressor"):
        Classifier(encoder, label="name").fit(shards, **QUICK)
    lake = [records([60])[0] | {"place": "lake"}]
    with pytest.raises(DataError, match=r"sample 0: label 'place': 'lake' is no class of the training samples"):
        Classifier(encoder, label="place").fit(records(range(20)), lake, **QUICK)
    with pytest.raises(DataError, match="expected the name or number of one class, got \\['a'\\]"):
        Classifier(encoder, label="tags").fit(shards, **QUICK)
    with pytest.raises(DataError, match="expected a finite number, got 'sea'"):
        Regressor(encoder, label="place").fit(shards, **QUICK)


def test_samples_that_can_not_be_used_are_refused(encoder, task, shards):
    with pytest.raises(ConfigError, match="the encoder has no stream 'sound'; it has text, image"):
        Classifier(encoder, label="place", inputs=["sound"])
    with pytest.raises(DataError, match="has no split 'tests', but test, train, validation; did you mean 'test'"):
        task.fit(shards / "tests", **QUICK)
    with pytest.raises(ConfigError, match="validation: needed to choose the best epoch by"):
        task.fit(records(range(10)), **QUICK)
    with pytest.raises(DataError, match="sample 1: has place, and none of the inputs text, image"):
        task.fit([records([0])[0], {"place": "sea"}], shards, **QUICK)
    with pytest.raises(DataError, match="columns of different lengths: text 2, place 1"):
        task.fit({"text": ["a", "b"], "place": ["sea"]}, shards, **QUICK)
    with pytest.raises(DataError, match="the task has not been fitted yet"):
        task.predict(shards)


def test_a_run_is_no_task(run):
    with pytest.raises(CheckpointError, match=r"it is a pretrained run, for mmpt\.load and mmpt finetune"):
        load(run)
