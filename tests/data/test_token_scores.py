"""Scores beside a data set: which token gets which, and what is refused."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from mmpt.data.manifest import load_manifest
from mmpt.data.schema import declare
from mmpt.data.source import Source, SourceSettings
from mmpt.data.writer import ShardWriter
from mmpt.errors import ConfigError
from tests.encoders.speech_material import RATE, recording, small_speech

LENGTHS = (2500, 1700, 2000)  # samples


@pytest.fixture
def data(tmp_path):
    fields = {"speech": declare("speech", "flac", sample_rate=RATE)}
    with ShardWriter(tmp_path / "speech", fields, split=(1.0, 0.0, 0.0)) as writer:
        for number, length in enumerate(LENGTHS):
            samples, rate = recording(number, length)
            writer.write({"speech": ((samples * 20000).astype(np.int16), rate), "__key__": f"clip{number}"})
    return load_manifest(tmp_path / "speech")


def write_scores(folder, scores, **facts):
    with ShardWriter(
        folder, {"scores": declare("scores", "npy", **{"stream": "speech", "rate": None, **facts})}
    ) as writer:
        for key, own in scores.items():
            writer.write({"scores": np.asarray(own, dtype=np.float32), "__key__": key})
    return folder


def source_of(data, folder, scores):
    given = SourceSettings(shards=data.folder, streams=("speech",), scores={"speech": scores})
    return Source("clips", 0, given, {"speech": small_speech(folder)}, 0)


def test_every_token_has_the_score_in_force_where_it_begins(data, tmp_path):
    speech = small_speech(tmp_path)
    rate = Fraction(RATE) / speech.step  # one score a token
    given = {f"clip{number}": np.linspace(0, 1, length // speech.step + 1) for number, length in enumerate(LENGTHS)}
    source = source_of(data, tmp_path, write_scores(tmp_path / "scores", given, rate=str(rate)))
    rows = source.rows([0, 1, 2])
    content = rows.streams["speech"]
    assert not rows.skips
    for row, uid in enumerate(rows.uid.tolist()):
        own = torch.from_numpy(given[source.keys_of(uid)[0]].astype(np.float32))
        here = content.valid[row] & content.observed[row]
        assert torch.equal(content.scores[row, here], own[: int(here.sum())])
        assert (content.scores[row, ~here] == 0).all()


@pytest.mark.parametrize("wrong", [[-1.0] * 40, [np.nan] * 40])
def test_scores_that_are_no_confidence_are_skipped_with_a_reason(data, tmp_path, wrong):
    scores = write_scores(tmp_path / "scores", {f"clip{n}": wrong for n in range(3)}, rate="100")
    skips = source_of(data, tmp_path, scores).rows([0, 1, 2]).skips
    assert len(skips) == 3
    assert "expected finite numbers, 0 or more, as scores" in skips[0].reason


def test_folders_without_scores_or_of_another_stream_are_refused(data, tmp_path):
    with pytest.raises(ConfigError, match=r"data\.sources\.clips\.scores\.speech: .* has no field 'scores'"):
        source_of(data, tmp_path, data.folder)
    other = write_scores(tmp_path / "scores", {"clip0": [0.5]}, stream="ecg")
    with pytest.raises(ConfigError, match="has scores of stream 'ecg', not of 'speech'"):
        source_of(data, tmp_path, other)
    with pytest.raises(ValueError, match="scores: expected one of the streams speech, got ecg"):
        SourceSettings(shards=data.folder, streams=("speech",), scores={"ecg": other})
