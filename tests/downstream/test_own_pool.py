"""A pool that a run was trained with: whatever reads the vectors of its samples pools by it."""

import importlib
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch.nn.functional import normalize
from torch.testing import assert_close
from walks import RECIPE, make_run, walk

import mmpt
from mmpt.build import build_model
from mmpt.cli import main
from mmpt.compress.command import compress
from mmpt.config import parse_settings
from mmpt.data.manifest import load_manifest
from mmpt.downstream.pretrained import load_pretrained
from mmpt.downstream.retrieval import features_of, retrieve
from mmpt.downstream.samples import collated, prepared
from mmpt.errors import ConfigError
from mmpt.export.command import export
from mmpt.objectives.matryoshka import cuts_of
from mmpt.pools.class_token import ClassTokenPool
from mmpt.settings import Recipe
from mmpt.training import checkpoint, command
from mmpt.training.run import prepare

EMBEDDING = """
streams:
  text: {type: text, max_length: 24}
  image: {type: image, size: 16, patch: 4}
trunk: {type: transformer, width: 16, depth: 2, heads: 2}
objective:
  type: embedding
  apart: true
  matryoshka: {layers: [1], widths: [4]}
  pool: {type: latent_attention, latents: 4, heads: 2}
data:
  sources:
    walks: {shards: SHARDS, streams: [image, text]}
  batch_size: 4
training:
  steps: 1
  optimizer: {learning_rate: 1e-3}
"""
SAMPLES = [{name: sample[name] for name in ("image", "text")} for sample in map(walk, range(12)) if "text" in sample]


@pytest.fixture(scope="module")
def pooled(shards, tmp_path_factory):
    """A run whose pool is no longer the mean."""
    return make_run(tmp_path_factory.mktemp("pooled") / "run", shards, (1,), EMBEDDING)


def halves(stream):
    return [{stream: sample[stream]} for sample in SAMPLES]


def table(file):
    return np.stack(pq.read_table(file)["features"].to_numpy())


def test_encode_gives_what_the_objective_contrasts(pooled):
    encoder, model = mmpt.load(pooled), load_pretrained(pooled).model
    batch = collated(list(prepared(SAMPLES, encoder.modalities)), encoder.modalities)
    views = model.objective._views(model.backbone, batch, 0.0, cuts_of(None, 0, 2, 16))
    for stream, view in zip(("text", "image"), views, strict=True):
        own = encoder.encode(halves(stream), pool="own")
        assert_close(own, view.vectors[None], rtol=0, atol=1e-6)
        mean = encoder.encode(halves(stream), pool="mean")
        assert not torch.allclose(own, normalize(mean, dim=1), atol=1e-2)


def test_a_sample_alone_is_pooled_as_among_others_and_a_stream_that_it_lacks_is_no_part_of_it(pooled):
    encoder = mmpt.load(pooled)
    mixed = [SAMPLES[0], halves("text")[1], halves("image")[2]]
    together = encoder.encode(mixed, pool="own")
    for sample, vector in zip(mixed, together, strict=True):
        assert_close(encoder.encode(sample, pool="own")[0], vector, rtol=0, atol=1e-6)


def test_an_untrained_encoder_has_the_pool_that_the_run_began_with(pooled):
    encoder = mmpt.load(pooled, untrained=True)
    fresh = build_model(encoder.recipe, encoder.modalities).objective.pool.state_dict()
    assert list(encoder.own.state_dict()) == list(fresh)
    assert all(torch.equal(value, fresh[name]) for name, value in encoder.own.state_dict().items())
    assert_close(
        encoder.encode(SAMPLES, pool="own"), normalize(encoder.encode(SAMPLES, pool="mean"), dim=1), rtol=0, atol=1e-6
    )


def test_embed_pools_by_it_unless_told_otherwise(pooled, shards, tmp_path):
    encoder, manifest = mmpt.load(pooled), load_manifest(shards)
    first = [str(key) for key in manifest.column("key")[:3]]
    for name, options in {"own": ["--pool", "own"], "default": [], "mean": ["--pool", "mean"]}.items():
        out = tmp_path / f"{name}.parquet"
        assert main(["embed", str(pooled), str(shards), "--streams", "image", "--out", str(out), *options]) == 0
        assert [str(key) for key in pq.read_table(out)["key"][:3]] == first
        wanted = encoder.encode(
            ({"image": walk(n)["image"]} for n in range(3)), pool="mean" if name == "mean" else "own"
        )
        np.testing.assert_allclose(table(out)[:3], wanted.numpy(), atol=1e-5)


def test_pairs_are_searched_and_cut_by_it(pooled, shards, monkeypatch, capsys):
    encoder = mmpt.load(pooled)
    describe, told = features_of(encoder, ("image", "text"))
    assert told.endswith("latents pooled by latent_attention")
    wanted = normalize(encoder.encode(halves("text"), pool="own"), dim=1)
    np.testing.assert_allclose(describe("text", [sample["text"] for sample in SAMPLES]), wanted.numpy(), atol=1e-6)
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    importlib.import_module("cuts").main([str(pooled), str(shards), "--streams", "image,text", "--widths", "4"])
    rows = [line.strip("│").split("│") for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    ways = retrieve(pooled, shards, ("image", "text")).directions
    assert rows[1][2].strip() == " / ".join(f"{way.recall[10].value:.3f}" for way in ways)


def other_pool(pooled, folder):
    """The same run with another pool."""
    shutil.copytree(pooled, folder)
    last = checkpoint.latest(folder / "checkpoints")
    saved = checkpoint.load(last)
    shutil.rmtree(last)
    name = "objective.pool.leave.weight"
    checkpoint.commit(folder / "checkpoints", saved._replace(weights={**saved.weights, name: saved.weights[name] * -9}))
    return folder


def test_depths_are_compared_by_it_and_the_smaller_run_keeps_it(pooled, shards, tmp_path):
    recipe = tmp_path / "depth.yaml"
    recipe.write_text(
        f"run: {pooled}\ndata: {shards}\nmethod: {{type: depth, depth: 1, batches: 1, batch_size: 8}}\n",
        encoding="utf-8",
    )
    told = compress(recipe, out=tmp_path / "one").told
    other = compress(recipe, f"run={other_pool(pooled, tmp_path / 'other')}", out=tmp_path / "two").told
    assert all(a != b for a, b in zip(told["method"]["losses"], other["method"]["losses"], strict=True))
    before, after = mmpt.load(pooled), mmpt.load(tmp_path / "one")
    assert all(torch.equal(v, after.own.state_dict()[name]) for name, v in before.own.state_dict().items())


def test_a_run_folder_keeps_it_and_a_card_says_where_it_stays_behind(pooled, tmp_path):
    export(pooled, tmp_path / "whole", to="safetensors")
    ours, theirs = (mmpt.load(folder).encode(SAMPLES, pool="own") for folder in (pooled, tmp_path / "whole"))
    assert torch.equal(ours, theirs)
    export(pooled, tmp_path / "image", to="transformers", modality="image")
    cards = [(tmp_path / name / "README.md").read_text(encoding="utf-8") for name in ("whole", "image")]
    assert ["trained with the pool `latent_attention`, which is left out here" in card for card in cards] == [
        False,
        True,
    ]


def test_a_run_that_goes_on_from_it_takes_encoders_and_trunk(pooled, shards):
    recipe = parse_settings(RECIPE.replace("SHARDS", str(shards)), [f"init_from={pooled}"], Recipe)
    built = command.build(recipe, 0, 1)
    before = mmpt.load(pooled).backbone.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in built.model.backbone.state_dict().items())
    assert "objective.pool.latents" in built.origin.left


@pytest.mark.parametrize("pool", ["mean", "class"])
def test_a_run_of_before_pools_were_parts_opens_and_goes_on(shards, tmp_path, pool):
    text = EMBEDDING.replace("pool: {type: latent_attention, latents: 4, heads: 2}", f"pool: {pool}")
    run = make_run(tmp_path / "run", shards, (1,), text)
    file = run / "recipe.yaml"
    now = file.read_text(encoding="utf-8")
    assert now.count(f"pool:\n    type: {pool}\n") == 1
    file.write_text(now.replace(f"pool:\n    type: {pool}\n", f"pool: {pool}\n"), encoding="utf-8")
    encoder = mmpt.load(run)
    assert isinstance(encoder.own, ClassTokenPool) == (pool == "class")
    assert_close(encoder.encode(halves("text"), pool="own"), encoder.encode(halves("text"), pool=pool), rtol=0, atol=0)
    built = command.build(parse_settings(text.replace("SHARDS", str(shards)), [], Recipe), 0, 1)
    prepare(run, built.recipe, built.facts, built.sources)


def test_what_has_no_pool_of_its_own_says_so(run, shards, tmp_path, capsys):
    assert main(["embed", str(run), str(shards), "--pool", "own", "--out", str(tmp_path / "own.parquet")]) == 2
    said = capsys.readouterr().err
    assert "has none of its own, as runs of objective 'embedding' have; use mean, mean_std, class" in said
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="got 'men'; did you mean 'mean'"):
        mmpt.load(run)._pooling("men")  # encode's own types are checked in tests
