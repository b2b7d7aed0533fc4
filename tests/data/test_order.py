"""The data order: a pure function of (seed, epoch, manifest), whatever the ranks and workers."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from mmpt.build import build_modalities
from mmpt.config import component
from mmpt.data import mixture
from mmpt.data.batches import MicroBatches, share_of, steps_from
from mmpt.data.cut import cut
from mmpt.data.layouts import Layout
from mmpt.data.manifest import load_manifest
from mmpt.data.source import Source, SourceSettings
from mmpt.data.writer import ShardWriter
from mmpt.encoders import Facts, Modality
from mmpt.errors import ConfigError

STEPS = 9


@pytest.fixture(scope="module")
def modalities(shards):
    manifest = load_manifest(shards / "images")
    facts = {
        name: Facts(shards / "images", manifest.fields[name].facts, manifest.statistics[name])
        for name in ("text", "image")
    }
    streams = {
        "text": component(Modality, "text", max_length=24),
        "image": component(Modality, "image", size=16, patch=8, crop_scale=(0.5, 1.0), flip=True),
    }
    return build_modalities(streams, facts)


def sources(shards, modalities, seed=0, **layout):
    chosen = component(Layout, **layout) if layout else component(Layout, "pack", length=48)
    packed = SourceSettings(shards=shards / "text", streams=("text",), layout=chosen)
    joint = SourceSettings(shards=shards / "images", streams=("image", "text"))
    return [Source("prose", 0, packed, modalities, seed), Source("pairs", 1, joint, modalities, seed)]


def test_a_stream_that_a_sample_lacks_takes_no_tokens(tmp_path, shards, modalities):
    fields, tokenizer = {"image": "png", "text": "txt"}, shards / "images" / "tokenizer"
    picture = Image.new("RGB", (16, 16))
    with ShardWriter(tmp_path / "pairs", fields, tokenizer=tokenizer, split=(1, 0, 0)) as writer:
        for values in ({"text": "a wren"}, {"image": picture}, {"text": "a wren", "image": picture}):
            writer.write(values)
    words, patches, both = cut(load_manifest(tmp_path / "pairs"), np.arange(3), modalities).tokens.tolist()
    assert patches == 1 + 4  # class token and patches
    assert words + patches == both


def global_batches(shards, modalities, *, ranks=1, micro=None, workers=0, start=0, seed=0):
    """Step -> the rows of the global batch in order, each as (uid, draw, its values)."""
    steps: list[dict] = [{} for _ in range(STEPS)]
    for rank in range(ranks):
        share = share_of(8, micro, rank, ranks)
        batches = MicroBatches(sources(shards, modalities, seed), [2.0, 1.0], STEPS, seed, share)
        for step, parts in enumerate(steps_from(batches, start, workers=workers), start=start):
            for part in parts:
                add_rows(steps[step], part.batch)
    return [dict(sorted(step.items())) for step in steps]


def add_rows(step, batch):
    for row, uid in enumerate(batch.uid.tolist()):
        values = {name: content.values[row][content.valid[row]] for name, content in batch.streams.items()}
        step[uid] = (int(batch.draw[row]), values)


def same(one, other):
    assert [list(step) for step in one] == [list(step) for step in other]
    for mine, theirs in zip(one, other, strict=True):
        for uid, (draw, values) in mine.items():
            assert draw == theirs[uid][0]
            assert all(torch.equal(values[name], theirs[uid][1][name]) for name in values)
    return True


@pytest.fixture(scope="module")
def alone(shards, modalities):
    return global_batches(shards, modalities)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(("ranks", "micro", "workers"), [(2, None, 0), (4, 1, 0), (1, 2, 1), (2, 2, 3)])
def test_global_batches_are_the_same_for_any_ranks_micro_batches_and_workers(
    shards, modalities, alone, ranks, micro, workers
):
    assert same(alone, global_batches(shards, modalities, ranks=ranks, micro=micro, workers=workers))


@pytest.mark.parametrize("start", [1, 5, 8])
def test_the_position_is_an_integer_to_go_on_from(shards, modalities, alone, start):
    assert same(alone[start:], global_batches(shards, modalities, start=start)[start:])


def test_another_seed_gives_another_order(shards, modalities, alone):
    other = global_batches(shards, modalities, seed=1)
    assert [list(step) for step in alone] != [list(step) for step in other]


@pytest.mark.parametrize(
    "layout", [{"type_": "samples"}, {"type_": "pack", "length": 64}, {"type_": "budget", "tokens": 100}]
)
def test_every_token_of_the_split_comes_exactly_once_an_epoch(shards, modalities, layout):
    kind = layout.pop("type_")
    settings = SourceSettings(shards=shards / "text", streams=("text",), layout=component(Layout, kind, **layout))
    source = Source("prose", 0, settings, modalities, 0)
    for epoch in range(2):
        first = epoch * source.plan.num_bins
        rows = source.rows(list(range(first, first + source.plan.num_bins)))
        content = rows.streams["text"]
        lengths = load_manifest(shards / "text").lengths("text")[source.samples]
        assert int(content.observed.sum()) == lengths.sum()
        assert rows.readable == [True] * len(source.pieces.sample)
        assert len(rows.uid.unique()) == len(rows.uid)


def test_epochs_are_shuffled_differently(shards, modalities):
    source = sources(shards, modalities)[1]
    bins = source.plan.num_bins
    one, two = (source.rows(list(range(start, start + bins))).uid.tolist() for start in (0, bins))
    assert one != two
    assert sorted(one) == sorted(two)


def test_packing_leaves_little_padding(shards, modalities):
    packed = sources(shards, modalities)[0]
    content = packed.rows(list(range(packed.plan.num_bins))).streams["text"]
    assert content.valid.float().mean() > 0.97
    assert (content.place[content.valid] < 24).all()


def test_a_packed_row_keeps_documents_apart(shards, modalities):
    content = sources(shards, modalities)[0].rows([0]).streams["text"]
    begins = content.values[0] == modalities["text"].special("bos")
    assert int(begins.sum()) == int(content.segment[0][content.valid[0]].max()) + 1
    assert (content.place[0][begins] == 0).all()


def test_a_budget_bin_stays_inside_its_budget(shards, modalities):
    settings = SourceSettings(shards=shards / "text", streams=("text",), layout=component(Layout, "budget", tokens=100))
    source = Source("prose", 0, settings, modalities, 0)
    for number in range(source.plan.num_bins):
        pieces = [source.plan.pieces(row) for row in source.plan.rows(number)]
        longest = max(int(source.pieces.tokens[piece].sum()) for piece in pieces)
        assert longest * len(pieces) <= 100


def test_a_batch_that_ranks_can_not_share_is_refused_with_sizes_that_would_do():
    with pytest.raises(ConfigError, match="10 can't be divided by 4 ranks; use 8 or 12"):
        share_of(10, None, 0, 4)
    with pytest.raises(ConfigError, match=r"3 does not divide the 8 .* use one of 1, 2, 4, 8"):
        share_of(16, 3, 0, 2)


def test_the_mixture_keeps_its_proportions_at_every_moment():
    weights = [5.0, 2.0, 1.0]
    chosen = mixture.schedule(weights, 800, seed=3)
    for steps in range(1, 801):
        counts = np.bincount(chosen[:steps], minlength=3)
        assert np.abs(counts - steps * np.array(weights) / 8).max() <= 2


def test_the_mixture_of_a_longer_run_begins_like_that_of_a_shorter_one():
    assert (mixture.schedule([3.0, 1.0], 50, 0) == mixture.schedule([3.0, 1.0], 500, 0)[:50]).all()


def test_a_source_goes_on_where_its_last_turn_ended():
    chosen = mixture.schedule([1.0, 1.0], 20, 0)
    turns = mixture.turns_before(chosen, 2)
    for source in (0, 1):
        assert turns[chosen == source].tolist() == list(range(int((chosen == source).sum())))


def test_augmentation_differs_by_epoch_but_not_by_reader(shards, modalities):
    source = sources(shards, modalities)[1]
    bins = source.plan.num_bins
    first = dict(zip(*values_of(source, 0, bins), strict=True))
    again = dict(zip(*values_of(source, 0, bins), strict=True))
    later = dict(zip(*values_of(source, bins, bins), strict=True))
    assert all(torch.equal(first[uid], again[uid]) for uid in first)
    assert Counter(torch.equal(first[uid], later[uid]) for uid in first)[False] > len(first) // 2


def values_of(source, start, count):
    rows = source.rows(list(range(start, start + count)))
    return rows.uid.tolist(), list(rows.streams["image"].values)
