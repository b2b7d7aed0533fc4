"""`mmpt embed` of a fitted task: the vectors that its own pool makes."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import mmpt
from mmpt.cli import main
from mmpt.config import component
from mmpt.finetune import Classifier, Retrieval
from mmpt.pools import Pool


@pytest.fixture(scope="module")
def fitted(run, shards, tmp_path_factory):
    """A classifier whose pool was learned."""
    folder = tmp_path_factory.mktemp("fitted") / "task"
    pool = component(Pool, "latent_attention", latents=4, heads=2)
    task = Classifier(mmpt.load(run), label="place", inputs=["image"], pool=pool)
    task.fit(shards, epochs=2, batch_size=16, learning_rate=1e-2, out=folder)
    return folder, task


def features(file, split=None):
    table = pq.read_table(file)
    rows = table["features"].to_numpy()
    return np.stack(rows if split is None else rows[np.array(table["split"]) == split])


def test_the_head_sees_what_is_embedded(fitted, shards, tmp_path):
    folder, task = fitted
    assert main(["embed", str(folder), str(shards), "--pool", "own", "--out", str(tmp_path / "own.parquet")]) == 0
    own, head = torch.from_numpy(features(tmp_path / "own.parquet", "test")), task.model.objective.head
    assert torch.allclose(own.norm(dim=1), torch.ones(len(own)), atol=1e-5)  # the paper's unit length
    seen = []
    hook = head.standard.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    task.predict(shards / "test")
    hook.remove()
    torch.testing.assert_close(torch.cat(seen), own, rtol=1e-4, atol=1e-5)
    assert main(["embed", str(folder), str(shards), "--out", str(tmp_path / "default.parquet")]) == 0
    assert np.array_equal(features(tmp_path / "default.parquet", "test"), own.numpy())
    mean = ["--streams", "image", "--pool", "mean", "--out", str(tmp_path / "mean.parquet")]
    assert main(["embed", str(folder), str(shards), *mean]) == 0
    assert not np.allclose(features(tmp_path / "mean.parquet", "test"), own.numpy())


def test_the_halves_of_a_pair_have_a_vector_each(run, shards, tmp_path, capsys):
    task = Retrieval(mmpt.load(run), streams=("image", "text"), size=8)
    task.fit(shards, epochs=1, batch_size=16, out=tmp_path / "pairs")
    own = ["embed", str(tmp_path / "pairs"), str(shards), "--out", str(tmp_path / "own.parquet")]
    assert main(own) == 2
    assert "a pair's halves have a vector each; name one of image and text" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.parquet*"))
    assert main([*own, "--streams", "text"]) == 0
    assert features(tmp_path / "own.parquet").shape[1] == 8
