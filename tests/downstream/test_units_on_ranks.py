"""k-means on several ranks: the same codebook and labels as alone, and one that refuses makes all refuse."""

import weakref
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from running import forked

from mmpt.data.manifest import load_manifest
from mmpt.data.schema import declare
from mmpt.data.writer import ShardWriter
from mmpt.downstream.units import corpus, fit
from mmpt.downstream.units.corpus import Frames
from mmpt.downstream.units.features import FrameFeatures, MfccFeatures
from mmpt.downstream.units.fit import fit_codebook, k_means
from mmpt.downstream.units.label import label_data
from tests.encoders.speech_material import RATE, recording

COUNT = 40  # recordings: three chunks, so that the ranks' shares differ


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks") / "speech"
    with ShardWriter(folder, {"speech": declare("speech", "flac", sample_rate=RATE)}, split=(0.9, 0.1, 0.0)) as writer:
        for number in range(COUNT):
            samples, rate = recording(number, 1000 + 37 * number)
            writer.write({"speech": ((samples * 20000).astype(np.int16), rate), "__key__": f"clip{number:02d}"})
    return load_manifest(folder)


def test_two_ranks_make_the_codebook_and_the_labels_of_one(speech, tmp_path):
    features = MfccFeatures(speech, "speech")
    alone = fit_codebook(features, speech.folder, clusters=6)
    label_data(alone, features, speech.folder, tmp_path / "alone")
    done = forked([str(speech.folder), str(tmp_path)], Path(__file__).with_name("units_on_a_rank.py"), ranks=2)
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / f"rank-{rank}.txt").read_text(encoding="utf-8") for rank in range(2)] == [alone.hash] * 2
    assert load_manifest(tmp_path / "labels").fingerprint() == load_manifest(tmp_path / "alone").fingerprint()


class Held(np.ndarray):
    """Frames that know of each other, however they were put together."""

    __array_priority__ = 1.0  # what is put together of them is one of them
    alive: ClassVar[list] = []

    def __array_finalize__(self, obj):
        Held.alive.append(weakref.ref(self))

    @classmethod
    def count(cls):
        """Frames in memory, each once."""
        cls.alive = [own for own in cls.alive if own() is not None]
        arrays = [own() for own in cls.alive]
        return sum(len(own) for own in arrays if own.ndim == 2 and own.base is None)


def held(frames):
    """A copy, which is nobody's view."""
    own = Held(frames.shape, frames.dtype)
    own[:] = frames
    return own


class Counting(FrameFeatures):
    """MFCCs whose copies are counted."""

    def __init__(self, plain):
        self.plain, self.stream, self.rate, self.settings = plain, plain.stream, plain.rate, plain.settings

    def of(self, values):
        return [held(own) for own in self.plain.of(values)]


def test_long_recordings_are_not_in_memory_together():
    assert corpus.chunk_edges([100] * 40) == [0, 16, 32, 40]
    half = corpus.LONG // 2
    assert corpus.chunk_edges([half, half, 1, 5 * half, 1, half]) == [0, 2, 3, 4, 6]
    assert corpus.chunk_edges([]) == [0]


@pytest.mark.parametrize("passes", [1, 4])
def test_frames_in_memory_do_not_grow_with_the_data_or_with_passes(speech, monkeypatch, passes):
    monkeypatch.setattr(fit, "BATCH", 50)
    monkeypatch.setattr(fit, "FIRST", 2)
    monkeypatch.setattr(corpus, "AT_ONCE", 2)
    frames = Frames(Counting(MfccFeatures(speech, "speech")), speech, range(COUNT))
    counts, totals = [], []

    def counted():
        for _, own in frames:
            counts.append(Held.count())
            totals.append(len(own))
            yield own

    k_means(counted, clusters=4, passes=passes)
    longest = max(totals)
    batch = 50 + longest
    bound = 2 * 2 * batch + 2 * batch + 2 * longest  # the first batches twice, one and its parts, a chunk
    assert batch < max(counts) <= bound < sum(totals)
