import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score
from sklearn.neighbors import KNeighborsClassifier

from mmpt.downstream import classify
from mmpt.downstream.classify import NEIGHBOURS, Bootstrap, grouped_folds, linear_probe, neighbour_probe


def blobs(count: int, distance: float, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, classes, count)
    centres = generator.normal(size=(classes, 8)) * distance
    return (centres[labels] + generator.normal(size=(count, 8))).astype(np.float32), labels


TRAIN, VALIDATION, TEST = np.arange(200), np.arange(200, 250), np.arange(250, 400)
FOLDS = [(TRAIN, VALIDATION)]


@pytest.mark.parametrize("probed", [linear_probe, neighbour_probe])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
def test_probes_find_what_is_there_and_only_that(probed, form):
    features, labels = blobs(400, 4.0)
    assert np.mean(probed(form(features), labels, FOLDS, TRAIN, TEST).predicted == labels[TEST]) > 0.97
    noise, labels = blobs(400, 0.0)
    assert np.mean(probed(form(noise), labels, FOLDS, TRAIN, TEST).predicted == labels[TEST]) < 0.5


@pytest.mark.parametrize("count", [k for k in NEIGHBOURS if k % 2])
def test_neighbours_vote_as_in_scikit_learn(monkeypatch, count):
    features, labels = blobs(400, 0.7, classes=2)
    monkeypatch.setattr(classify, "NEIGHBOURS", (count,))
    theirs = KNeighborsClassifier(count, metric="cosine").fit(features[TRAIN], labels[TRAIN])
    ours = neighbour_probe(features, labels, FOLDS, TRAIN, TEST)
    assert (ours.predicted == theirs.predict(features[TEST])).all()


def test_of_classes_with_as_many_votes_the_one_with_the_nearest_wins(monkeypatch):
    angles = np.radians([0, 10, 20, 30, 90, 8])
    features, labels = np.stack([np.cos(angles), np.sin(angles)], axis=1), np.array([0, 2, 0, 2, 1, 1])
    monkeypatch.setattr(classify, "NEIGHBOURS", (4,))
    train, test = np.arange(5), np.array([5])
    assert neighbour_probe(features, labels, [(train, test)], train, test).predicted.tolist() == [2]


def test_folds_keep_groups_together():
    groups = np.arange(200) // 10
    _, labels = blobs(200, 1.0)
    folds = grouped_folds(TRAIN, labels, groups, 0)
    assert sorted(np.concatenate([judge for _, judge in folds])) == list(TRAIN)
    assert all(not set(groups[fit]) & set(groups[judge]) for fit, judge in folds)
    assert grouped_folds(TRAIN, labels, np.zeros(200), 0) == []
    assert len(grouped_folds(TRAIN[:4], np.array([0, 1, 0, 1]), np.arange(4), 0)) == 2


def test_scores_are_scikit_learns_and_lie_in_their_intervals():
    generator = np.random.default_rng(1)
    labels = generator.choice([0, 2, 5], 90, p=[0.7, 0.25, 0.05])
    predicted = np.where(generator.random(90) < 0.6, labels, 2)
    bootstrap = Bootstrap(labels, np.arange(90) // 3, seed=0)
    accuracy, balanced, f1 = (bootstrap.interval(predicted, name) for name in classify.SCORES)
    assert accuracy.value == pytest.approx(accuracy_score(labels, predicted))
    assert balanced.value == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert f1.value == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert accuracy.low < accuracy.value < accuracy.high
    assert f1.low < f1.value < f1.high
    assert balanced.low < balanced.value < balanced.high
    assert bootstrap.interval(labels, "accuracy").low == 1.0
    assert bootstrap.difference(labels, predicted, "accuracy").value == pytest.approx(1 - accuracy.value)
    assert bootstrap.difference(labels, predicted, "macro_f1").value == pytest.approx(1 - f1.value)
    assert bootstrap.difference(predicted, predicted, "balanced").high == 0.0


@pytest.mark.parametrize("name", list(classify.SCORES))
def test_every_score_is_scikit_learns_for_classes_that_only_one_side_has(name):
    labels, predicted = np.array([0, 0, 0, 1, 1, 3]), np.array([0, 2, 0, 1, 2, 2])
    ours = Bootstrap(labels, np.arange(6), 0).interval(predicted, name).value
    assert ours == pytest.approx(classify.SCORES[name](labels, predicted))


def test_the_setting_of_a_probe_is_the_one_of_the_best_score():
    """A rare class that only a strong fit finds: accuracy hardly sees it, macro-F1 does."""
    generator = np.random.default_rng(4)
    labels = (generator.random(1000) < 0.06).astype(int)
    features = generator.normal(size=(1000, 4)) + labels[:, None] * 1.5
    train, judge, test = np.arange(500), np.arange(500, 750), np.arange(750, 1000)
    chosen = {
        name: linear_probe(features, labels, [(train, judge)], train, test, score)
        for name, score in classify.SCORES.items()
    }
    scores = {name: classify.SCORES["macro_f1"](labels[test], choice.predicted) for name, choice in chosen.items()}
    assert scores["macro_f1"] >= scores["accuracy"]
    assert chosen["macro_f1"].setting >= chosen["accuracy"].setting


def test_the_interval_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(2)
    covered = 0
    for trial in range(200):
        right = generator.random(150) < 0.7
        interval = Bootstrap(np.zeros(150, dtype=int), np.arange(150), trial).interval(
            np.where(right, 0, 1), "accuracy"
        )
        covered += interval.low <= 0.7 <= interval.high
    assert 0.90 <= covered / 200 <= 0.99


def test_samples_of_one_group_count_as_one_draw():
    labels = np.zeros(200, dtype=int)
    predicted = np.repeat(np.random.default_rng(3).integers(0, 2, 20), 10)  # right or wrong by whole groups
    alone = Bootstrap(labels, np.arange(200), 0).interval(predicted, "accuracy")
    grouped = Bootstrap(labels, np.arange(200) // 10, 0).interval(predicted, "accuracy")
    assert grouped.high - grouped.low > 2.5 * (alone.high - alone.low)
