"""Few-shot curves, the attentive probe, and maps between the features of two streams."""

import io
import json
import shutil

import numpy as np
import pytest
import torch
from rich.console import Console
from walks import prose

from mmpt.cli import main
from mmpt.downstream.attentive import WITHOUT_JUDGES, FrozenTokens, attentive_probe
from mmpt.downstream.classify import Bootstrap
from mmpt.downstream.few_labels import (
    Reference,
    check_shares,
    curves,
    draws_of,
    missing_classes,
    over_draws,
    stratified,
)
from mmpt.downstream.few_pairs import few_pairs
from mmpt.downstream.labelled import Labelled
from mmpt.downstream.linear_map import Ridge, choose_strength, ridge, unit
from mmpt.downstream.probe import probe
from mmpt.downstream.summary import summary
from mmpt.errors import DataError
from mmpt.report.probes import probes_section

SHARES = (0.02, 0.2, 1.0)


@pytest.fixture(scope="module")
def run(run, tmp_path_factory):
    """A copy: other tests read all probes of the run."""
    return shutil.copytree(run, tmp_path_factory.mktemp("runs") / "copy")


@pytest.fixture(scope="module")
def found(run, shards):
    return probe(run, shards, label="place", streams=["text"], shares=SHARES, draws=3)


def labelled(labels, test=10):
    """Training samples of these labels, each a group of its own, and some test samples."""
    every = np.concatenate([labels, np.arange(test) % 2])
    splits = np.array(["train"] * len(labels) + ["test"] * test, dtype=object)
    rows = np.arange(len(every))
    return Labelled(rows, every, splits, rows.astype(str).astype(object), ("a", "b", "c"), 0)


# ---- draws


@pytest.mark.parametrize("share", [0.01, 0.05, 0.1, 0.37, 0.5, 1.0])
def test_a_draw_has_as_many_of_each_class_as_the_share_says(share):
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    drawn = stratified(labels, share, np.random.default_rng(0))
    assert len(np.unique(drawn)) == len(drawn) == round(share * 1000)
    counts = np.bincount(labels[drawn], minlength=3)
    assert (abs(counts - share * np.array([600, 300, 100])) < 1).all()


def test_draws_differ_by_number_and_are_the_same_again():
    known = labelled(np.arange(200) % 2)
    first, second = draws_of(known, 0.1, 2, 0)
    assert set(first.rows) != set(second.rows)
    assert (draws_of(known, 0.1, 2, 0)[0].rows == first.rows).all()
    assert set(first.rows) <= set(known.indices("train"))


def test_settings_are_chosen_inside_the_drawn_labels():
    for drawn in draws_of(labelled(np.arange(200) % 2), 0.1, 3, 0):
        assert drawn.folds
        for fit, judge in drawn.folds:
            assert set(fit) | set(judge) == set(drawn.rows)
            assert not set(fit) & set(judge)


def test_a_share_that_leaves_a_class_without_a_sample_says_so():
    known = labelled(np.repeat([0, 1, 2], [95, 95, 10]))
    said = missing_classes(known, 0.03, draws_of(known, 0.03, 4, 0))
    assert said == "share 0.03, 6 labels: c has no sample in 4 of 4 draws, and can't be found there"
    assert missing_classes(known, 0.5, draws_of(known, 0.5, 4, 0)) == ""


@pytest.mark.parametrize(
    ("shares", "draws", "said"), [((0.0,), 5, "got 0"), ((1.5,), 5, "got 1.5"), ((1,), 0, "draws")]
)
def test_what_is_no_share_is_refused(shares, draws, said):
    with pytest.raises(DataError, match=said):
        check_shares(shares, draws)
    assert check_shares((1, 0.1, 0.1), 1) == (0.1, 1)


# ---- curves


def test_mean_and_deviation_are_over_draws_and_the_interval_holds_the_mean():
    table = np.random.default_rng(0).random((4, 2001))
    interval = over_draws(table, None, 0)
    assert interval.value == pytest.approx(table[:, 0].mean())
    assert interval.low <= interval.value <= interval.high
    assert over_draws(table, table, 0).value == 0
    assert over_draws(table, table, 0).high == 0  # paired: the same draws on both sides


def test_with_one_class_every_sample_is_said_to_be_of_it():
    known = labelled(np.repeat([0, 1], [99, 1]))
    bootstrap = Bootstrap(known.labels[known.indices("test")], np.arange(10), 0)

    def refuse(folds, rows):
        raise AssertionError("nothing can be fitted to one class")

    whole = Reference(100, {"any": np.zeros(10, dtype=np.int64)})
    made, notes = curves(
        {"any": refuse}, known, whole, bootstrap,
        score="accuracy", shares=(0.02, 1.0), draws=2, seed=0, shown=lambda values, _: values,
    )  # fmt: skip
    assert made[0].points[0].score.value == 0.5
    assert "b has no sample in 2 of 2 draws" in notes[0]


def test_every_kind_of_features_has_a_curve_that_ends_at_the_table(found):
    assert [curve.name for curve in found.curves] == ["pretrained", "untrained", "TF-IDF of text"]
    for curve in found.curves:
        assert [point.share for point in curve.points] == list(SHARES)
        assert [point.samples for point in curve.points] == [3, 29, 144]
        assert [point.draws for point in curve.points] == [3, 3, 1]
        last = curve.points[-1]
        assert last.score.value == found.row(curve.name).linear.value
        assert last.deviation == 0
        for point in curve.points:
            assert 0 <= point.score.low <= point.score.value <= point.score.high <= 1
    own, fresh = found.curves[:2]
    assert own.points[-1].gain.value == pytest.approx(found.gain.value)
    assert own.points[0].gain.value == pytest.approx(own.points[0].score.value - fresh.points[0].score.value)
    assert fresh.points[0].gain is None


def test_more_labels_tell_more(found):
    words = found.curves[2].points
    assert words[0].score.value < words[1].score.value <= words[2].score.value
    assert any(point.deviation > 0 for curve in found.curves for point in curve.points[:2])


def test_curves_are_in_the_table_the_json_and_the_report(found, run, shards):
    page = io.StringIO()
    Console(width=140, file=page).print(found.curve_table())
    for words in ("0.02 (3)", "1 (144)", "±", "over untrained", "deviation"):
        assert words in page.getvalue(), words
    kept = json.loads((run / f"probe-{shards.name}-place-text.json").read_text())
    assert kept["curves"][0]["points"][1]["samples"] == 29
    html = probes_section(run)
    assert "linear accuracy by share of the training labels" in html
    assert "0.02 (3)" in html


def test_neighbours_have_curves_of_their_own(run, shards):
    found = probe(run, shards, label="place", streams=["image"], kind="knn", shares=[0.1], draws=2, untrained=False)
    assert (run / f"probe-{shards.name}-place-image-knn.json").exists()
    assert found.gain is None
    assert [point.gain for point in found.curves[0].points] == [None]
    assert found.curves[0].points[0].score.value > 0.6


# ---- the attentive probe


def test_a_query_finds_the_one_token_that_tells():
    """The mean of all tokens is drowned in noise; the one that matters is marked by a direction."""
    random = np.random.default_rng(0)
    labels, samples = np.arange(240) % 2, []
    for label in labels:
        tokens = random.normal(size=(int(random.integers(20, 40)), 16)).astype(np.float32)
        tokens[:, 0] = 0
        tokens[random.integers(len(tokens)), :2] = 8, 6 if label else -6
        samples.append(torch.from_numpy(tokens))
    tokens = FrozenTokens(tuple(samples), torch.device("cpu"))
    train, test = np.arange(180), np.arange(180, 240)
    before = torch.random.get_rng_state()
    chosen = attentive_probe(tokens, labels, [], train, test)
    assert chosen.setting == WITHOUT_JUDGES
    assert np.mean(chosen.predicted == labels[test]) > 0.9
    assert (attentive_probe(tokens, labels, [], train, test).predicted == chosen.predicted).all()
    assert (torch.random.get_rng_state() == before).all()


def test_padding_is_no_token():
    samples = (torch.randn(3, 8), torch.randn(5, 8))
    rows = FrozenTokens(samples, torch.device("cpu")).rows(np.array([1, 0]))["every"]
    assert rows.valid.tolist() == [[True] * 5, [True] * 3 + [False] * 2]
    assert (rows.latents[1, :3] == samples[0]).all()


def test_an_attentive_probe_stands_beside_linear_baselines(run, shards):
    found = probe(run, shards, label="place", kind="attentive", streams=["image"], max_samples=40, shares=[1])
    row, pixels = found.row("pretrained"), found.row("16 x 16 pixels of image")
    assert row.attentive.low <= row.attentive.value <= row.attentive.high
    assert row.updates
    assert pixels.attentive is None
    assert found.row("commonest class").attentive == found.row("commonest class").linear
    assert found.gain.value == pytest.approx(row.attentive.value - found.row("untrained").attentive.value)
    ends = {curve.name: curve.points[-1].score.value for curve in found.curves}
    assert ends == {"pretrained": row.attentive.value, "untrained": found.row("untrained").attentive.value,
                    "16 x 16 pixels of image": pixels.linear.value}  # fmt: skip
    page = io.StringIO()
    Console(width=160, file=page).print(summary(run))
    assert "attentive" in page.getvalue()


# ---- pairs


def test_a_map_is_ridge_regression():
    random = np.random.default_rng(0)
    ask, answer = random.normal(size=(40, 6)), random.normal(size=(40, 3))
    predict, scale = ridge(ask, answer, 0.5)
    own, other = (rows - rows.mean(0) for rows in (ask, answer))
    own, other = own / own.std(0), other / other.std(0)
    penalty = 0.5 * float((np.linalg.svd(own, compute_uv=False) ** 2).mean())
    weights = np.linalg.solve(own.T @ own + penalty * np.eye(6), own.T @ other)
    assert np.allclose(predict(ask), own @ weights)
    assert np.allclose(scale(answer), other)


def test_a_linear_relation_is_found_and_noise_is_shrunk():
    random = np.random.default_rng(0)
    ask = random.normal(size=(60, 5))
    answer = ask @ random.normal(size=(5, 7))
    groups = np.arange(60).astype(str)
    fitted = Ridge(ask[:40], answer[:40])
    near = unit(fitted.predict(ask[40:], 1e-4)) @ unit(fitted.scale(answer[40:])).T
    assert (near.argmax(1) == np.arange(20)).all()
    assert choose_strength(ask, answer + random.normal(size=answer.shape), groups, 3) > 1e-3
    assert choose_strength(ask[:3], answer[:3], np.array(["one"] * 3), 3) == 1.0


def test_pairs_are_found_through_a_map_beside_baselines_and_chance(run, write_shards, tmp_path):
    from walks import picture

    samples = [
        {"image": picture(n % 2, n), "text": prose(n % 2, n), "__split__": "train" if n % 3 else "test"}
        for n in range(90)
    ]
    folder = write_shards(tmp_path / "pairs", samples, image="png", text="txt")
    found = few_pairs(run, folder, ("image", "text"), shares=[0.01, 0.2, 1], draws=2)
    assert found.notes[0] == "share 0.01 of 60 pairs is less than two: no map"
    assert [way.name for way in found.ways] == ["image -> text", "text -> image"]
    for way in found.ways:
        for own in way.recall.values():
            assert [curve.name for curve in own][:2] == ["pretrained", "untrained"]
            assert [point.samples for point in own[0].points] == [12, 60]
            assert own[1].points[0].gain is None
            for point in own[0].points:
                assert 0 <= point.score.low <= point.score.value <= point.score.high <= 1
                assert point.gain.low <= point.gain.value <= point.gain.high
        baseline = way.recall["10"][2]
        assert "TF-IDF of text" in baseline.name
        assert baseline.points[-1].score.value > way.chance["10"]
    html = probes_section(run)
    assert "image -&gt; text: recall at 10 by share of the training pairs" in html
    assert (
        few_pairs(run, folder, ("image", "text"), shares=[1], draws=2).ways[0].recall["5"][0].points[0].deviation == 0
    )
    with pytest.raises(DataError, match=r"share 0\.01 of 60 pairs is less than two: no map; use larger shares"):
        few_pairs(run, folder, ("image", "text"), shares=[0.01])


def test_the_commands_read_shares(run, shards, capsys):
    arguments = [str(run), str(shards), "--label", "place", "--streams", "text", "--max-samples", "40"]
    assert main(["probe", *arguments, "--shares", "0.5", "--draws", "2"]) == 0
    assert "by share of the training labels" in " ".join(capsys.readouterr().out.split())
    assert main(["probe", *arguments, "--shares", "half"]) == 2
    assert "--shares: expected numbers as 0.01,0.1,1, got 'half'" in capsys.readouterr().err
    assert main(["probe", *arguments, "--shares", "2"]) == 2
    assert "expected numbers above 0 and up to 1, got 2" in capsys.readouterr().err
