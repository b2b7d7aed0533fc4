"""What `show` draws is the sample as it stood in training, under the mask that it had there."""

import shutil
import zlib

import numpy as np
import pytest
import torch
from captions import RECIPE
from PIL import Image

from mmpt.build import build_modalities, build_model, build_sources, facts_of, source_weights
from mmpt.config import parse_settings
from mmpt.data.batches import MicroBatches, Share
from mmpt.data.manifest import load_manifest
from mmpt.data.writer import ShardWriter
from mmpt.downstream.pretrained import load_pretrained
from mmpt.errors import CheckpointError, DataError
from mmpt.report.drawing import Bit, draw_bits, drawn
from mmpt.report.reconstructions import predict
from mmpt.report.show import one_document, row_of, show
from mmpt.report.training_rows import find_sample
from mmpt.settings import Recipe
from mmpt.training import checkpoint
from mmpt.training.run import prepare

STEPS = 24


def make_run(folder, shards, recipe_text):
    recipe = parse_settings(recipe_text.replace("SHARDS", str(shards)), [], Recipe)
    facts = facts_of(recipe)
    modalities = build_modalities(recipe.streams, facts)
    prepare(folder, recipe, facts, build_sources(recipe, modalities))
    weights = {name: value.clone() for name, value in build_model(recipe, modalities).state_dict().items()}
    for step in (6, STEPS):
        checkpoint.commit(folder / "checkpoints", checkpoint.Saved(weights, {}, {"step": step}))
    return folder


@pytest.fixture(scope="module")
def long_run(report_shards, tmp_path_factory):
    """Several epochs of two sources, under a ratio that rises."""
    rising = (
        RECIPE.replace("length: 128", "length: 48")
        .replace("ratio: 0.3", "ratio: {type: schedule, start: 0.2, end: 0.8}")
        .replace("steps: 8", f"steps: {STEPS}")
    )
    return make_run(tmp_path_factory.mktemp("long") / "run", report_shards, rising)


def training_batches(pretrained):
    """The global batches of the whole run, as training draws them."""
    recipe = pretrained.recipe
    sources = build_sources(recipe, pretrained.modalities)
    share = Share(0, 1, 1, recipe.data.batch_size)
    return sources, MicroBatches(sources, source_weights(recipe, sources), STEPS, recipe.training.seed, share)


def about(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return image.text["Description"]


def grey(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def key_of(folder, split, number=0):
    manifest = load_manifest(folder)
    return str(manifest.column("key")[manifest.split_rows(split)[number]])


def test_the_mask_is_the_one_that_the_row_had_in_training(long_run):
    pretrained = load_pretrained(long_run)
    sources, batches = training_batches(pretrained)
    epochs = set()
    for step in range(STEPS):
        batch = batches[step].batch
        hidden = pretrained.model.hide(batch, step / STEPS)
        source = sources[int(batch.uid[0]) >> 40]
        manifest = load_manifest(source.reader.folder)
        rows = {uid: row for row, uid in enumerate(batch.uid.tolist())}  # a small source may be drawn twice in a step
        for uid, row in rows.items():
            for document, key in enumerate(source.keys_of(uid & (2**40 - 1))):
                shown = row_of(pretrained, manifest, find_sample(manifest, key), step, tuple(source.modalities))
                mine = predict(pretrained, shown.batch, shown.progress)
                assert (shown.document, shown.progress) == (document, step / STEPS)
                for name, content in batch.streams.items():
                    own, narrow = one_document(shown.batch.streams[name], mine[name], shown.row, shown.document)
                    there = content.valid[row] & (content.segment[row] == document)
                    assert torch.equal(own.values[0], content.values[row][there])
                    assert torch.equal(narrow.hidden[0], hidden[name].hidden[row][there])
                epochs.add((source.name, shown.told.split("epoch ")[1][0]))
    assert {("prose", "0"), ("prose", "2"), ("captioned", "1")} <= epochs


def test_between_two_draws_the_last_one_counts_and_before_the_first_the_first(long_run, report_shards):
    pretrained = load_pretrained(long_run)
    manifest = load_manifest(report_shards / "text")
    sample = int(manifest.split_rows("train")[0])
    drawn = [round(row_of(pretrained, manifest, sample, step, None).progress * STEPS) for step in range(STEPS)]
    first = min(drawn)
    assert len(set(drawn)) > 2
    assert all(at <= step for step, at in enumerate(drawn) if step >= first)
    assert set(drawn[:first]) <= {first}
    assert drawn == sorted(drawn)


def test_sources_drawn_by_size_keep_their_steps(report_shards, tmp_path):
    tempered = RECIPE.replace("batch_size: 4", "batch_size: 4\n  temperature: 2.0").replace(
        "steps: 8", f"steps: {STEPS}"
    )
    pretrained = load_pretrained(make_run(tmp_path / "run", report_shards, tempered))
    sources, batches = training_batches(pretrained)
    step = STEPS - 1
    batch = batches[step].batch
    source = sources[int(batch.uid[0]) >> 40]
    manifest = load_manifest(source.reader.folder)
    key = source.keys_of(int(batch.uid[-1]) & (2**40 - 1))[0]
    shown = row_of(pretrained, manifest, find_sample(manifest, key), step, None)
    assert shown.progress == step / STEPS
    assert int(shown.batch.draw[shown.row]) == int(batch.draw[-1])


def test_a_document_of_a_packed_row_is_cut_out_with_its_predictions(long_run):
    pretrained = load_pretrained(long_run)
    _, batches = training_batches(pretrained)
    batch = next(batches[step].batch for step in range(STEPS) if batches[step].batch.source == "prose")
    content, prediction = batch.streams["text"], predict(pretrained, batch, 0.5)["text"]
    row = int(content.segment.max(1).values.argmax())
    total = 0
    for document in range(int(content.segment[row].max()) + 1):
        own, narrow = one_document(content, prediction, row, document)
        assert own.values[0, 0] == pretrained.modalities["text"].special("bos")
        assert torch.equal(narrow.places, narrow.hidden[0].nonzero().squeeze(1))
        total += len(narrow.places)
    assert total == int(prediction.hidden[row].sum()) > 0


def test_a_sample_of_the_run_is_drawn_with_its_step_and_checkpoint(long_run, report_shards, tmp_path):
    key = key_of(report_shards / "images", "train")
    file = show(long_run, report_shards / "images", key, out=tmp_path / "one.png")
    said = about(file)
    assert file == tmp_path / "one.png"
    assert f"{key} of {report_shards / 'images'}, train split" in said
    assert "of source 'captioned'" in said
    assert f"predicted by the checkpoint of step {STEPS} of {long_run}" in said
    image = grey(file)
    assert image.shape[1] == 1200
    assert (image < 250).mean() > 0.05


def test_a_step_with_a_checkpoint_of_its_own_is_predicted_by_it_and_others_by_the_newest(
    long_run, report_shards, tmp_path
):
    key = key_of(report_shards / "text", "train")
    for step, weights in ((6, 6), (7, STEPS), (STEPS, STEPS)):
        said = about(show(long_run, report_shards / "text", key, step=step, out=tmp_path / "own.png"))
        assert f"checkpoint of step {weights} of" in said


def test_a_held_out_sample_is_hidden_as_in_the_first_epoch(long_run, report_shards, tmp_path):
    key = key_of(report_shards / "images", "validation")
    said = about(show(long_run, report_shards / "images", key, step=3, out=tmp_path / "own.png"))
    assert f"not trained on; hidden as row 1 of epoch 0 would be in step 3 of {STEPS}" in said


def test_any_data_set_with_the_streams_will_do(long_run, report_shards, tmp_path):
    fields = {"image": "png", "labels": "json"}
    with ShardWriter(tmp_path / "other", fields) as writer:
        writer.write({"image": Image.new("RGB", (30, 20), "teal"), "labels": {"label": "teal"}, "__key__": "teal"})
    assert "not trained on; hidden as row 0" in about(
        show(long_run, tmp_path / "other", "teal", out=tmp_path / "a.png")
    )
    with pytest.raises(DataError, match=r"streams: .*other has no 'text'; it has image, labels"):
        show(long_run, tmp_path / "other", "teal", streams=["text"], out=tmp_path / "a.png")
    with pytest.raises(DataError, match=r"streams: .*run has no 'sound'; it has text, image"):
        show(long_run, tmp_path / "other", "teal", streams=["sound"], out=tmp_path / "a.png")


def test_dollars_are_no_mathematics():
    drawn(lambda figure: draw_bits(figure, [Bit(0, 0, r"$\frac{1}{0$")], 1), 1.0, dpi=40)


def test_foreign_letters_and_long_tokens_are_drawn_as_they_are(long_run, report_shards, tmp_path):
    fields = {"text": "txt"}
    with ShardWriter(tmp_path / "odd", fields, tokenizer=report_shards / "tokenizer") as writer:
        writer.write({"text": r"it cost $5 or $\frac{1}{0 海\n\n of it" + "a" * 40, "__key__": "odd"})
    show(long_run, tmp_path / "odd", "odd", out=tmp_path / "odd.png")


def test_chosen_streams_alone_are_shown(long_run, report_shards, tmp_path):
    key = key_of(report_shards / "images", "train")
    both, one = tmp_path / "both.png", tmp_path / "one.png"
    show(long_run, report_shards / "images", key, out=both)
    show(long_run, report_shards / "images", key, streams=["image"], out=one)
    assert grey(both).shape[0] > grey(one).shape[0] + 100


def test_a_stream_that_the_sample_lacks_gets_a_sentence(long_run, report_shards, tmp_path):
    manifest = load_manifest(report_shards / "images")
    lacking = np.flatnonzero(manifest.column("text.offset") < 0)[0]
    show(long_run, report_shards / "images", str(manifest.column("key")[lacking]), out=tmp_path / "one.png")
    assert (grey(tmp_path / "one.png") < 128).any()


def test_the_same_request_gives_the_same_file(long_run, report_shards, tmp_path):
    key = key_of(report_shards / "text", "train")
    files = [show(long_run, report_shards / "text", key, out=tmp_path / f"{n}.png").read_bytes() for n in range(2)]
    assert zlib.crc32(files[0]) == zlib.crc32(files[1])


def test_what_is_not_there_is_said(long_run, report_shards, tmp_path):
    with pytest.raises(DataError, match=r"no sample has the key '00000x'; the nearest is '0000\d+'"):
        show(long_run, report_shards / "text", "00000x", out=tmp_path / "a.png")
    with pytest.raises(DataError, match=rf"step: expected 0 to {STEPS}, .* got 99"):
        show(long_run, report_shards / "text", key_of(report_shards / "text", "train"), step=99, out=tmp_path / "a.png")
    with pytest.raises(CheckpointError, match="not a run folder"):
        show(tmp_path, report_shards / "text", "0", out=tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_sample_is_named(long_run, report_shards, tmp_path):
    copy = shutil.copytree(report_shards / "text", tmp_path / "text")
    key, tar = key_of(copy, "train"), next(copy.glob("*.tar"))
    data = bytearray(tar.read_bytes())
    for place in range(512, len(data) // 2, 512):
        data[place + 3] ^= 1
    tar.write_bytes(data)
    with pytest.raises(DataError, match=f"sample {key}: member 'text': bytes differ"):
        show(long_run, copy, key, out=tmp_path / "a.png")
