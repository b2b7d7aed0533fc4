"""Ask2Mask as a user runs it: one run scores the tokens of a data set, another is trained by the scores."""

import numpy as np
from running import mmpt

from mmpt.data.manifest import load_manifest
from mmpt.data.reader import Reader


def test_the_scores_of_one_run_guide_the_masks_of_another(run, shards, tmp_path):
    folder, recipe, _ = run
    scores = tmp_path / "scores"
    done = mmpt("units", "score", folder, shards / "text", "--stream", "text", "--out", scores)
    assert done.returncode == 0, done.stderr
    manifest = load_manifest(scores)
    assert len(manifest) == len(load_manifest(shards / "text"))
    own = Reader(manifest, ["scores"]).read(3)["scores"]
    assert own.dtype == np.float32
    assert ((own > 0) & (own < 1)).all()
    settings = [f"data.sources.prose.scores.text={scores}"]
    done = mmpt("pretrain", recipe, "--out", tmp_path / "run", *settings)
    assert done.returncode == 2
    assert "stream 'text' has scores in one of this source and 'prose' alone" in done.stderr
    settings += ["data.sources.captioned.streams=[image]"]
    settings += ["objective.streams.text.masking.importance={type: score, mode: top}"]
    settings += ["objective.streams.text.row_weight=scores", "training.steps=6"]
    done = mmpt("pretrain", recipe, "--out", tmp_path / "run", *settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "loss" in done.stdout
    done = mmpt("units", "score", folder, shards / "images", "--stream", "image", "--out", tmp_path / "more")
    assert done.returncode == 2
    assert "a score is the probability of a class, and its stream 'image' predicts none" in done.stderr
