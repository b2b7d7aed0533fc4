"""Units: the same codebook from the same call, labels that follow their samples, figures that are scikit-learn's."""

import json
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import groupby

import numpy as np
import pytest
import torch
from running import build_all_small_shards
from sklearn.cluster import KMeans
from sklearn.metrics import mutual_info_score
from torch.testing import assert_close

from mmpt.data.codebook import Codebook
from mmpt.data.manifest import load_manifest
from mmpt.data.reader import Reader
from mmpt.data.schema import declare
from mmpt.data.writer import ShardWriter
from mmpt.downstream.encoder import load
from mmpt.downstream.units.corpus import Frames, rows_with
from mmpt.downstream.units.features import LayerFeatures, MfccFeatures
from mmpt.downstream.units.fit import fit_codebook, k_means
from mmpt.downstream.units.label import is_labelled, label_data
from mmpt.downstream.units.layers import choose_layer
from mmpt.downstream.units.quality import Tally, purity_and_pnmi
from mmpt.errors import DataError
from mmpt.training.command import pretrain

DECODER = "{type: decoder, width: 16, depth: 1, heads: 2}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where `shards` lie."""
    folder = tmp_path_factory.mktemp("units")
    (folder / "shards").mkdir()
    build_all_small_shards(folder / "shards")
    return folder


@pytest.fixture(scope="module")
def speech(folder):
    return load_manifest(folder / "shards" / "speech")


@pytest.fixture(scope="module")
def mfcc(speech):
    return MfccFeatures(speech, "speech")


@pytest.fixture(scope="module")
def codebook(mfcc, speech):
    return fit_codebook(mfcc, speech.folder, clusters=8)


@pytest.fixture(scope="module")
def run(folder):
    """Sound, beats and tables on one trunk, hardly trained."""
    recipe = folder / "small.yaml"
    text = """
streams:
  speech: {type: speech_mel, mels: 20, kernel: 4, stride: 4, max_seconds: 5.0}
  ecg: {type: ecg, patch: 20, max_seconds: 1.0}
  labs: {type: labs}
trunk: {type: transformer, width: 16, depth: 2, heads: 2}
objective:
  type: masked_prediction
  streams:
    speech: {masking: {ratio: 0.5}, corruption: drop, predictor: DECODER, target: log_mel}
    ecg: {masking: {ratio: 0.5}, corruption: drop, predictor: DECODER, target: signal}
    labs: {masking: {ratio: 0.5}, corruption: drop, predictor: DECODER, target: cells}
data:
  sources:
    prompts: {shards: SHARDS/speech, streams: [speech]}
    beats: {shards: SHARDS/ecg, streams: [ecg]}
    patients: {shards: SHARDS/labs, streams: [labs]}
  batch_size: 4
training:
  steps: 3
  optimizer: {learning_rate: 1e-2, warmup_steps: 1}
"""
    recipe.write_text(text.replace("SHARDS", str(folder / "shards")).replace("DECODER", DECODER), encoding="utf-8")
    return pretrain(recipe, out=folder / "run")


def test_the_same_call_gives_the_same_codebook(mfcc, speech, codebook):
    again = fit_codebook(mfcc, speech.folder, clusters=8)
    assert again.hash == codebook.hash
    assert fit_codebook(mfcc, speech.folder, clusters=8, seed=1).hash != codebook.hash
    assert fit_codebook(mfcc, speech.folder, clusters=8, share=0.3).hash != codebook.hash
    assert codebook.rate == Fraction(100)
    assert codebook.centroids.shape == (8, 39)


def test_centroids_are_nearly_as_good_as_those_of_k_means_over_all_frames(mfcc, speech, codebook):
    frames = np.concatenate([own for _, own in Frames(mfcc, speech, rows_with(speech, "speech", "train"))])
    best = KMeans(8, n_init=5, random_state=0).fit(frames)
    spread = ((frames - codebook.centroids[codebook.assign(frames)]) ** 2).sum()
    assert spread < 1.05 * best.inertia_


def test_settings_that_make_no_codebook_are_refused(mfcc, speech):
    with pytest.raises(DataError, match=r"frames for 1000000 clusters; ask for fewer"):
        fit_codebook(mfcc, speech.folder, clusters=1_000_000)
    for wrong in ({"clusters": 1}, {"clusters": 4, "passes": 0}):
        with pytest.raises(DataError, match="expected clusters >= 2"):
            fit_codebook(mfcc, speech.folder, **wrong)
    with pytest.raises(DataError, match="share: expected above 0"):
        fit_codebook(mfcc, speech.folder, clusters=4, share=0.0)
    with pytest.raises(DataError, match="no field 'voice'; it has"):
        rows_with(speech, "voice", None)


def test_labels_follow_their_samples(mfcc, speech, codebook, tmp_path):
    labels, quality = label_data(codebook, mfcc, speech.folder, tmp_path / "labels", samples_per_shard=7)
    assert list(labels.column("key")) == list(speech.column("key"))
    assert list(labels.column("split")) == list(speech.column("split"))
    assert is_labelled(tmp_path / "labels", codebook)
    assert not is_labelled(tmp_path / "nothing", codebook)
    reader, sound = Reader(labels, ["units"]), Reader(speech, ["speech"])
    for row in range(0, len(speech), 9):
        expected = codebook.assign(mfcc.of([sound.read(row)["speech"]])[0])
        np.testing.assert_array_equal(reader.read(row)["units"], expected)
    assert quality.frames == sum(labels.lengths("units"))
    assert quality.purity is None
    assert quality.seconds == pytest.approx(quality.run_length / 100)
    kept = json.loads((tmp_path / "labels" / "quality.json").read_text(encoding="utf-8"))
    every = [np.asarray(reader.read(row)["units"], dtype=int) for row in range(len(speech))]
    runs = [len(list(run)) for own in every for unit, run in groupby(own.tolist()) if unit == 3]
    assert kept["each"][3] == {
        "frames": sum(runs),
        "run_length": pytest.approx(np.mean(runs)),
        "seconds": pytest.approx(np.mean(runs) / 100),
    }
    assert (len(kept["each"]), kept["frames"], kept["used"]) == (8, quality.frames, quality.used)
    other = Codebook(codebook.centroids, codebook.rate, "speech", {**codebook.features, "window_ms": 20})
    with pytest.raises(DataError, match="take those that it was fitted to"):
        label_data(other, mfcc, speech.folder, tmp_path / "other")


def test_labels_of_another_codebook_are_made_again(mfcc, speech, codebook, tmp_path):
    label_data(codebook, mfcc, speech.folder, tmp_path / "labels")
    moved = Codebook(codebook.centroids + 1, codebook.rate, codebook.stream, codebook.features)
    assert not is_labelled(tmp_path / "labels", moved)
    assert not (tmp_path / "labels").exists()


class Failing(MfccFeatures):
    """Fails behind the first samples."""

    batches = 0

    def of(self, values):
        self.batches += 1
        if self.batches > 1:
            raise RuntimeError("cable")
        return super().of(values)


def test_half_written_labels_go_on_with_their_codebook_only(speech, mfcc, codebook, tmp_path):
    for name in ("one", "two"):
        with pytest.raises(RuntimeError, match="cable"):
            label_data(codebook, Failing(speech, "speech"), speech.folder, tmp_path / name, samples_per_shard=4)
        assert not is_labelled(tmp_path / name, codebook)
    moved = Codebook(codebook.centroids + 1, codebook.rate, codebook.stream, codebook.features)
    with pytest.raises(DataError, match="half-built with other fields"):
        label_data(moved, mfcc, speech.folder, tmp_path / "one", samples_per_shard=4)
    label_data(codebook, mfcc, speech.folder, tmp_path / "two", samples_per_shard=4)
    label_data(codebook, mfcc, speech.folder, tmp_path / "whole", samples_per_shard=4)
    assert load_manifest(tmp_path / "two").fingerprint() == load_manifest(tmp_path / "whole").fingerprint()


def test_what_units_tell_of_labels_is_scikit_learn_s_mutual_information(mfcc, speech, codebook, tmp_path):
    _, quality = label_data(codebook, mfcc, speech.folder, tmp_path / "labels", against="label")
    reader, units, given = Reader(speech, ["speech", "labels"]), [], []
    for row in range(len(speech)):
        sample = reader.read(row)
        own = codebook.assign(mfcc.of([sample["speech"]])[0])
        units += own.tolist()
        given += [sample["labels"]["label"]] * len(own)
    counts = np.array(list(Counter(given).values())) / len(given)
    entropy = -(counts * np.log(counts)).sum()
    assert quality.pnmi == pytest.approx(mutual_info_score(given, units) / entropy, rel=1e-9)
    commonest = sum(Counter(g for g, u in zip(given, units, strict=True) if u == unit).most_common(1)[0][1]
                    for unit in set(units))  # fmt: skip
    assert quality.purity == pytest.approx(commonest / len(units))
    assert quality.frames == len(units)


def test_purity_and_information_at_their_ends():
    assert purity_and_pnmi(np.diag([3.0, 5.0, 2.0])) == pytest.approx((1.0, 1.0))
    assert purity_and_pnmi(np.outer([2.0, 1.0], [3.0, 3.0])) == pytest.approx((2 / 3, 0.0))


def test_runs_and_use_of_units():
    tally = Tally(5)
    tally.add(np.array([1, 1, 1, 3]), None)
    tally.add(np.array([3, 3]), None)
    quality = tally.quality(Fraction(50))
    assert (quality.frames, quality.used, quality.run_length) == (6, 2, 2.0)
    assert quality.seconds == pytest.approx(0.04)
    assert quality.perplexity == pytest.approx(2.0)
    assert [own.frames for own in quality.each] == [0, 3, 0, 3, 0]
    assert [own.run_length for own in quality.each] == [0.0, 3.0, 0.0, 1.5, 0.0]
    assert [own.seconds for own in quality.each] == pytest.approx([0.0, 0.06, 0.0, 0.03, 0.0])
    assert [own.seconds for own in tally.quality(None).each] == [None] * 5


@pytest.mark.parametrize("stream", ["speech", "ecg", "labs"])
def test_features_of_a_layer_are_the_trunk_s_and_no_neighbour_changes_them(run, folder, stream):
    features = LayerFeatures(run, stream, layer=2)
    manifest = load_manifest(folder / "shards" / stream)
    rows = rows_with(manifest, stream, None)[:5]
    reader = Reader(manifest, [stream])
    values = [reader.read(row)[stream] for row in rows]
    together = features.of(values)
    for own, value in zip(together, values, strict=True):
        np.testing.assert_allclose(features.of([value])[0], own, atol=1e-5)
    encoder = load(run)
    latents = encoder.encode([{stream: value} for value in values]).streams[stream]
    for number, own in enumerate(together):
        kept = latents.valid[number] & latents.observed[number]
        normed = encoder.backbone.trunk.norm(torch.from_numpy(own))
        assert_close(normed, latents.latents[number][kept], atol=1e-5, rtol=1e-5)
    untrained = LayerFeatures(run, stream, layer=2, untrained=True)
    assert np.abs(untrained.of(values)[0] - together[0]).max() > 1e-3
    assert untrained.settings != features.settings


def test_a_layer_that_is_not_there_is_refused(run):
    with pytest.raises(DataError, match="layer: expected 1 to 2, the trunk's depth, got 3"):
        LayerFeatures(run, "speech", layer=3)
    with pytest.raises(DataError, match="no stream 'image'; it has speech, ecg, labs"):
        LayerFeatures(run, "image", layer=1)


@pytest.fixture(scope="module")
def beats(run, folder):
    """Heartbeats with what they really are by each of the trunk's layers, a label a token."""
    manifest = load_manifest(folder / "shards" / "ecg")
    rows, reader = rows_with(manifest, "ecg", None), Reader(manifest, ["ecg"])
    fields = {"ecg": manifest.fields["ecg"]}
    units = {}
    for layer in (1, 2):
        name = f"layer{layer}"
        fields[name] = declare(name, f"{name}.npy")
        frames = [own for _, own in Frames(LayerFeatures(run, "ecg", layer=layer), manifest, rows)]
        centroids = k_means(lambda frames=frames: frames, clusters=6)
        codebook = Codebook(centroids, None, "ecg", {})
        units[name] = [codebook.assign(own) for own in frames]
    with ShardWriter(folder / "beats", fields) as writer:
        for number, row in enumerate(rows):
            split = str(manifest.column("split")[row])
            marks = {"__key__": f"{row:06d}", "__group__": f"{row}", "__split__": split}
            writer.write({"ecg": reader.read(row)["ecg"], **{n: u[number] for n, u in units.items()}, **marks})
    return folder / "beats"


@pytest.mark.parametrize("layer", [1, 2])
def test_the_layer_whose_units_tell_most_is_chosen(run, beats, layer):
    choice = choose_layer(LayerFeatures(run, "ecg", layer=1), beats, against=f"layer{layer}", clusters=6)
    assert choice.best == layer
    assert choice.on == "validation"
    manifest = load_manifest(beats)
    for number, score in enumerate(choice.pnmi, start=1):
        features, tally, reader = LayerFeatures(run, "ecg", layer=number), Tally(6), Reader(manifest, [f"layer{layer}"])
        codebook = fit_codebook(features, beats, clusters=6)
        for row, own in Frames(features, manifest, rows_with(manifest, "ecg", "validation")):
            tally.add(codebook.assign(own), reader.read(row)[f"layer{layer}"].astype(np.int64))
        assert tally.quality(None).pnmi == pytest.approx(score)
    assert codebook.hash == replace(codebook, chosen=choice.facts).hash


def test_labels_of_one_class_choose_nothing(run, folder):
    with pytest.raises(DataError, match="no sample has a label 'tone'"):
        choose_layer(LayerFeatures(run, "speech", layer=1), folder / "shards/speech", against="tone", clusters=4)


def test_workers_and_threads_change_no_bit(run, folder):
    features, data = LayerFeatures(run, "ecg", layer=2), folder / "shards" / "ecg"
    alone = fit_codebook(features, data, clusters=4, passes=2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert fit_codebook(features, data, clusters=4, passes=2).hash == alone.hash
    finally:
        torch.set_num_threads(before)
    assert fit_codebook(features, data, clusters=4, passes=2, workers=2).hash == alone.hash


class Choosy(MfccFeatures):
    """Refuses short recordings."""

    def of(self, values):
        if any(len(samples) < 5000 for samples, _ in values):
            raise DataError("too short")
        return super().of(values)


def test_a_sample_that_can_not_be_used_is_named(speech):
    reader = Reader(speech, ["speech"])
    lengths = [len(reader.read(row)["speech"][0]) for row in range(len(speech))]
    short = next(row for row, length in enumerate(lengths) if length < 5000)
    with pytest.raises(DataError, match=rf"sample {speech.column('key')[short]}: member 'speech': too short"):
        list(Frames(Choosy(speech, "speech"), speech, range(len(speech))))
