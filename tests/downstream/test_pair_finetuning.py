"""Pairs of streams: what is learned, how ranks are counted, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image
from walks import walk

import mmpt
from mmpt.config import component
from mmpt.downstream.retrieval import first_ranks
from mmpt.errors import ConfigError, DataError
from mmpt.finetune import Retrieval, load
from mmpt.finetune.tasks.retrieval import both_ways, info_nce
from mmpt.pools import Pool

QUICK = {"epochs": 1, "batch_size": 16}
COLOURS = {"wave": 0, "salt": 1, "ridge": 2}


@pytest.fixture(scope="module")
def encoder(run):
    return mmpt.load(run)


def pair(number):
    """One of nine: two channels tell two words; eight of nine neighbours are other pairs."""
    generator = np.random.default_rng([6, number])
    left, right = number % 3, number // 3 % 3
    pixels = generator.integers(0, 60, (16, 16, 3))
    pixels[:, :8, left] += 150
    pixels[:, 8:, right] += 150
    words = list(COLOURS)
    return {"image": Image.fromarray(pixels.astype(np.uint8)), "text": f"{words[left]} and {words[right]} {number}"}


def pairs(numbers):
    return [pair(number) for number in numbers]


@pytest.fixture(scope="module")
def fitted(encoder):
    task = Retrieval(encoder, streams=["image", "text"], size=16)
    return task.fit(pairs(range(90)), pairs(range(90, 135)), epochs=6, batch_size=18, learning_rate=1e-2)


def test_pairs_find_one_another_beside_chance(fitted):
    recall, chance = fitted.metrics["image_to_text_recall_at_10"], fitted.trivial["image_to_text_recall_at_10"]
    assert chance == pytest.approx(10 / 45)
    assert recall.low > chance
    assert fitted.metrics["text_to_image_median_rank"].value < fitted.trivial["text_to_image_median_rank"] == 23
    assert fitted.history[fitted.best_epoch - 1]["mean_recall"] == max(e["mean_recall"] for e in fitted.history)
    assert "image and text" in str(fitted)


def test_recalls_are_counted_from_features_of_each_half_by_itself(fitted):
    task, rows = fitted.task, pairs(range(90, 135))
    features = task.predict_scores(rows)
    alone = np.stack([task.predict_scores([{"image": row["image"]}])[0, 0] for row in rows[:3]])
    assert alone == pytest.approx(features[:3, 0], abs=1e-4)
    first = first_ranks(features[:, 0] @ features[:, 1].T, np.eye(45, dtype=bool))
    for k in (1, 5, 10):
        assert fitted.metrics[f"image_to_text_recall_at_{k}"].value == pytest.approx((first <= k).mean())
    assert fitted.metrics["image_to_text_median_rank"].value == np.median(first)
    assert task.predict(rows) == (features[:, 0] @ features[:, 1].T).argmax(1).tolist()


def test_a_saved_task_finds_the_same_and_a_missing_half_is_none(fitted, tmp_path):
    rows = pairs(range(90, 99))
    again = load(fitted.save(tmp_path / "task"))
    assert again.predict(rows) == fitted.task.predict(rows)
    rows[2], rows[4] = {"text": rows[2]["text"]}, {"image": rows[4]["image"]}
    found = again.predict(rows)
    assert found[2] is None
    assert 4 not in found
    assert again.evaluate(rows)["mean_recall"].value <= 1


def test_the_loss_is_cross_entropy_both_ways_and_the_same_text_is_no_negative():
    generator = torch.Generator().manual_seed(0)
    features, there = torch.randn(4, 2, 8, generator=generator), torch.tensor([True, True, True, False])
    items = torch.tensor([[-1, 7], [-1, 5], [-1, 7], [-1, 3]])
    each = info_nce(features, items, there)
    logits = features[:, 0] @ features[:, 1].T
    for row, negatives in ((0, [1]), (1, [0, 2]), (2, [1])):
        rows = [row, *negatives]
        forth = logits[row, rows].logsumexp(0) - logits[row, row]
        back = logits[rows, row].logsumexp(0) - logits[row, row]
        assert each[row] == pytest.approx(float((forth + back) / 2), rel=1e-5)


def test_a_shared_text_is_one_candidate_and_any_of_its_pictures_is_right():
    image_to_text, text_to_image = both_ways([np.array([-1, 7]), np.array([-1, 5]), np.array([-1, 7])])
    assert image_to_text.candidates.tolist() == [1, 0]
    assert image_to_text.right(slice(None)).tolist() == [[False, True], [True, False], [False, True]]
    assert sorted(text_to_image.candidates.tolist()) == [0, 1, 2]
    assert text_to_image.right(slice(None)).sum(1).tolist() == [2, 1, 2]


def test_samples_with_one_half_are_left_out_and_counted(encoder):
    train = pairs(range(10))
    del train[3]["text"]
    task = Retrieval(encoder, streams=["image", "text"], size=4, pool=component(Pool, "attention"))
    result = task.fit(train, pairs(range(10, 15)), **QUICK)
    assert result.samples == {"train": 9, "validation": 5}
    assert "1 train samples have no second half and were left out" in result.notes


def test_what_can_not_be_paired_is_refused(encoder, shards):
    with pytest.raises(ConfigError, match="the encoder has no stream 'sound'; it has text, image"):
        Retrieval(encoder, streams=["image", "sound"])
    with pytest.raises(ConfigError, match="expected two different streams, got text, text"):
        Retrieval(encoder, streams=["text", "text"])
    with pytest.raises(ConfigError, match=r"expected 1 or more and above 0, got 16 and 0\.0"):
        Retrieval(encoder, streams=["image", "text"], size=16, temperature=0.0)
    task = Retrieval(encoder, streams=["image", "text"])
    with pytest.raises(DataError, match="no sample has both image and text"):
        task.fit([{"image": walk(4)["image"]}], pairs(range(2)), **QUICK)
    with pytest.raises(DataError, match="needs 2 pairs of image and text at least, and there is 1 to train on"):
        task.fit(pairs([0]), pairs(range(2)), **QUICK)
    with pytest.raises(ConfigError, match=r"metric: expected a metric \(mean_recall, image_to_text_recall_at_1"):
        task.fit(pairs(range(4)), pairs(range(4, 6)), **QUICK, metric="accuracy")
