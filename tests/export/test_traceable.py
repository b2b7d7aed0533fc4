"""Parts put in again in plainer operations compute what they computed before, padding and all."""

import pytest
from torch.testing import assert_close

from mmpt.export import flat
from mmpt.export.traceable import PlainExperts, PlainPositions, PlainStem, traceable
from tests.encoders.speech_material import small_speech


def assert_alike(backbone, content, batch_of_contents, plain):
    (stream,) = backbone.encoders
    copy = traceable(backbone)
    assert plain is None or any(isinstance(part, plain) for part in copy.modules())
    batch = batch_of_contents(**{stream: content})
    ours, theirs = (own(batch)[stream].x[content.valid] for own in (backbone, copy))
    assert_close(theirs, ours, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "plain"),
    [
        ({"norm": "layer"}, PlainStem),
        ({"norm": "group"}, PlainStem),
        ({"conv_bias": True, "norm": "group", "positions": "sincos"}, PlainStem),
        ({"kernel": 7}, PlainPositions),  # odd
    ],
)
def test_windows_by_themselves_are_frames_of_a_row(
    modalities, documents, backbone_of, batch_of, tmp_path, settings, plain
):
    speech = small_speech(tmp_path, **settings)
    first, second, third, fourth, *_ = documents("speech")
    content = speech.collate([[first], [second], [], [third], [fourth]], None)
    assert_alike(backbone_of({"speech": speech}), content, batch_of, plain)


def test_an_ecg_s_convolutional_positions_are_a_convolution(modalities, contents, backbone_of, batch_of):
    backbone = backbone_of({"ecg_stem": modalities["ecg_stem"]})
    assert_alike(backbone, contents("ecg_stem"), batch_of, PlainPositions)


@pytest.mark.parametrize("settings", [{"k": 1}, {"k": 2, "modality_bias": "gate_and_expert"}, {"k": 2}])
def test_experts_that_compute_everything_weigh_what_was_chosen(modalities, contents, backbone_of, batch_of, settings):
    routed = {"type": "routed_experts", "experts": 4, **settings}
    backbone = backbone_of({"labs": modalities["labs"]}, feedforward=routed)
    assert_alike(backbone, contents("labs"), batch_of, PlainExperts)


@pytest.mark.parametrize("name", ["text", "image", "video", "labs", "ecg", "ecg_stem", "speech", "speech_mel"])
def test_inputs_by_name_are_all_that_a_stream_needs(modalities, documents, backbone_of, batch_of, name):
    modality, backbone = modalities[name], backbone_of({name: modalities[name]})
    content = modality.collate([[own] for own in documents(name)[:3]], None)
    batch = batch_of_inputs(content, {name: modality})
    ours, theirs = (backbone(own)[name].x[content.valid] for own in (batch_of(**{name: content}), batch))
    assert_close(theirs, ours, rtol=0, atol=1e-6)


def batch_of_inputs(content, modalities):
    (name,) = modalities
    return flat.batch_of(flat.flat_inputs({name: content}, modalities), modalities)
