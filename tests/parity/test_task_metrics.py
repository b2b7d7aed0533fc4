"""Scores of transcripts, pixels and pairs are those of torchmetrics."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_f1_score, multiclass_jaccard_index
from torchmetrics.functional.text import char_error_rate, word_error_rate
from torchmetrics.retrieval import RetrievalRecall

from mmpt.downstream.retrieval import first_ranks
from mmpt.finetune import classes
from mmpt.finetune.metrics import values
from mmpt.finetune.tasks import ctc, retrieval

TRUE = ["the old grey path", "under the wind", "a tide", "over and over", "salt"]
SAID = ["the old path", "under the winds", "", "over an over", "salt tide"]


def test_error_rates_are_torchmetrics():
    ours = values(ctc.METRICS, (ctc.edits(TRUE, SAID),))
    assert ours["character_error_rate"] == pytest.approx(float(char_error_rate(SAID, TRUE)), abs=1e-5)
    assert ours["word_error_rate"] == pytest.approx(float(word_error_rate(SAID, TRUE)), abs=1e-5)


def test_overlap_and_f1_of_counted_classes_are_torchmetrics():
    random = np.random.default_rng(0)
    true = [random.integers(-1, 4, size) for size in (60, 7, 200)]
    said = [np.where(random.random(own.shape) < 0.6, own.clip(min=0), random.integers(0, 4, own.shape)) for own in true]
    counts = classes.confusions(true, said, 4)
    guess, right = (torch.from_numpy(np.concatenate(own)) for own in (said, true))
    overlap = multiclass_jaccard_index(guess, right, 4, ignore_index=-1)
    assert classes.mean_iou(counts) == pytest.approx(float(overlap), abs=1e-5)
    assert classes.macro_f1(counts) == pytest.approx(
        float(multiclass_f1_score(guess, right, 4, average="macro", ignore_index=-1)), abs=1e-5
    )


def test_recall_among_pairs_is_torchmetrics():
    features = torch.randn(30, 2, 6, generator=torch.Generator().manual_seed(1))
    similarity = features[:, 0] @ features[:, 1].T
    ranks = retrieval.ranks_of([np.array([-1, -1])] * 30, features.numpy())
    assert (ranks[:, 0] == first_ranks(similarity.numpy(), np.eye(30, dtype=bool))).all()
    index = torch.arange(30).repeat_interleave(30)
    for k in retrieval.RANKS:
        recall = RetrievalRecall(top_k=k)(similarity.flatten(), torch.eye(30, dtype=torch.int64).flatten(), index)
        ours = retrieval.metrics_of(("a", "b"))[f"a_to_b_recall_at_{k}"].score(ranks)
        assert ours == pytest.approx(float(recall), abs=1e-5)
