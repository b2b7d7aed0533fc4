"""Hard negatives: which are found, which are passed over, and how they come into a batch."""

import numpy as np
import pytest
import torch

from mmpt.cli import main
from mmpt.config import parse_settings
from mmpt.data.hard_negatives import load_mined
from mmpt.data.manifest import load_manifest
from mmpt.data.source import UID_SHIFT
from mmpt.downstream.mine import mine, nearest
from mmpt.errors import ConfigError, DataError
from mmpt.settings import Recipe
from mmpt.training.command import build

ALONE = np.arange(6)


def on_a_line(*cosines):
    """Unit vectors with these similarities to the first one's answer."""
    angles = np.arccos(np.array(cosines))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_negatives_are_the_ranks_asked_for_the_most_similar_first():
    answer = on_a_line(1.0, 0.9, 0.1, 0.5, 0.7, 0.3)
    near, ranked, _ = nearest(answer[:1].repeat(6, 0), answer, ALONE, ranks=(2, 4), share=0.95)
    assert near[0].tolist() == [4, 3, 5]
    assert ranked[0] == 1
    near, *_ = nearest(answer[:1].repeat(6, 0), answer, ALONE, ranks=(4, 7), share=0.95)
    assert near[0].tolist() == [5, 2, -1, -1]


def test_what_is_more_alike_than_a_share_of_the_own_half_is_passed_over():
    answer = on_a_line(0.8, 0.79, 0.77, 0.75, 0.9, 0.1)
    ask = on_a_line(1.0).repeat(6, 0)
    near, ranked, alike = nearest(ask, answer, ALONE, ranks=(1, 5), share=0.95)
    assert near[0].tolist() == [3, 5, -1, -1, -1]  # 0.76 is the limit
    assert ranked[0] == 2
    near, _, less = nearest(ask, answer, ALONE, ranks=(1, 2), share=1.0)
    assert near[0].tolist() == [1, 2]
    assert less < alike


def test_samples_of_one_group_are_no_negatives_of_each_other_and_count_in_no_rank():
    answer = on_a_line(0.8, 0.9, 0.5, 0.6, 0.1, 0.2)
    near, ranked, _ = nearest(
        on_a_line(1.0).repeat(6, 0), answer, np.array([0, 0, 0, 1, 1, 1]), ranks=(1, 2), share=0.95
    )
    assert near[0].tolist() == [3, 5]
    assert ranked[0] == 1


@pytest.fixture(scope="module")
def mined(run, shards, tmp_path_factory):
    """Pairs whose own half is not among the nearest 40 are left out."""
    file = tmp_path_factory.mktemp("hard") / "pairs.safetensors"
    return mine(run, shards, file, streams=["image", "text"], ranks=(2, 6), share=1.0, top=40)


def test_a_pair_at_the_last_rank_is_kept_and_the_next_left_out(run, shards, mined, tmp_path):
    manifest = load_manifest(shards)
    some = load_mined(mined.file, manifest)
    more = mine(run, shards, tmp_path / "more.safetensors", streams=["image", "text"], ranks=(2, 6), share=1.0, top=41)
    later = load_mined(more.file, manifest)
    assert 0 < mined.dropped < mined.samples
    assert mined.dropped - more.dropped == (later.kept & ~some.kept).sum()
    assert not (some.kept & ~later.kept).any()
    assert some.kept.sum() == mined.samples - mined.dropped
    groups = np.asarray(manifest.column("group"), dtype=object)
    for sample in np.flatnonzero(some.kept)[:50]:
        own = some.negatives[sample]
        assert all(groups[other] != groups[sample] for other in own[own >= 0])


RECIPE = """
streams:
  image: {type: image, size: 16, patch: 4}
  text: {type: text, max_length: 24}
trunk: {type: transformer, width: 16, depth: 2, heads: 2}
objective: {type: embedding, apart: true, own_side: false}
data:
  sources:
    walks: {shards: SHARDS, streams: [image, text], hard: {file: FILE, count: 2}}
  batch_size: 6
  workers: 0
training:
  steps: 4
  optimizer: {learning_rate: 1e-3}
"""


@pytest.fixture
def recipe_of(shards, mined):
    def make(*overrides, text=RECIPE):
        text = text.replace("SHARDS", str(shards)).replace("FILE", str(mined.file))
        return parse_settings(text, list(overrides), Recipe)

    return make


def test_a_row_brings_its_negatives_along_and_only_asks_itself(recipe_of, shards, mined):
    built = build(recipe_of(), 0, 1)
    manifest = load_manifest(shards)
    found = load_mined(mined.file, manifest)
    (source,) = built.sources
    seen = set()
    for number in range(4):
        batch = built.batches[number].batch
        asking = int(batch.anchor.sum())
        assert asking == 6
        assert batch.anchor[:6].all()
        samples = [int(source.pieces.sample[uid & ((1 << UID_SHIFT) - 1)]) for uid in batch.uid.tolist()]
        wanted = {other for sample in samples[:6] for other in found.negatives[sample].tolist()}
        assert set(samples[6:]) <= wanted
        assert len(samples) > 6
        assert found.kept[samples].all()
        seen |= set(samples[6:])
        again = built.batches[number].batch
        assert torch.equal(again.uid, batch.uid)
        step = built.model(batch, built.model.hide(batch, 0.0), 0.0)
        rows = step.losses["embedding"].rows
        assert (rows[:6] > 0).all()
        assert (rows[6:] == 0).all()
    assert len(seen) > 12


def test_the_run_remembers_which_negatives_it_began_with(recipe_of, run, shards, tmp_path, mined):
    before = build(recipe_of(), 0, 1).sources[0].fingerprint
    other = mine(run, shards, tmp_path / "other.safetensors", streams=["image", "text"], ranks=(3, 6), top=40)
    changed = recipe_of(text=RECIPE.replace("FILE", str(other.file)))
    assert build(changed, 0, 1).sources[0].fingerprint != before


def test_an_objective_that_compares_no_rows_is_refused(recipe_of):
    masked = (
        "objective: {type: masked_prediction, streams: {text: {masking: {ratio: 0.3}, corruption: replace, "
        "predictor: tied, target: token_ids}, image: {masking: {ratio: 0.3}, corruption: replace, predictor: mlp, "
        "target: pixels}}}"
    )
    text = RECIPE.replace("objective: {type: embedding, apart: true, own_side: false}", masked)
    with pytest.raises(ConfigError, match=r"data\.sources\.walks\.hard: this objective does not compare rows"):
        build(recipe_of(text=text), 0, 1)


def test_negatives_of_other_data_are_refused(recipe_of, write_shards, tmp_path):
    from walks import walk

    other = write_shards(tmp_path / "other", [walk(number) for number in range(40)])
    with pytest.raises(ConfigError, match=r"was mined of other data than .*; mine again"):
        build(recipe_of(f"data.sources.walks.shards={other}"), 0, 1)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"streams": []}, "expected one, or two of a pair, got none"),
        ({"ranks": (5, 2)}, "expected two rising ranks from 1"),
        ({"share": 0.0}, "a share up to 1"),
        ({"out": "hard.npz"}, "expected a file that ends in .safetensors"),
        ({"streams": ["image", "sound"]}, "has no 'sound'"),
    ],
)
def test_what_can_not_be_mined_is_refused(run, shards, tmp_path, change, sentence):
    settings = {"out": "hard.safetensors", "streams": ["image"], **change}
    out = tmp_path / settings.pop("out")
    with pytest.raises(DataError, match=sentence):
        mine(run, shards, out, **settings)
    assert not out.exists()


def test_the_command_says_what_was_found(run, shards, tmp_path, capsys):
    out = tmp_path / "images.safetensors"
    arguments = ["mine", str(run), str(shards), "--streams", "image", "--out", str(out), "--ranks", "1:3"]
    assert main(arguments) == 0
    assert "hard negatives a sample of 180" in capsys.readouterr().out
    assert main([*arguments[:-1], "3"]) == 2
    assert "--ranks: expected the first and the last one" in capsys.readouterr().err
