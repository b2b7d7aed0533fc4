"""Video: where a tubelet's pixels come from, which frames make a clip, what is refused, and tubes."""

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from torch.testing import assert_close

from mmpt.config import component
from mmpt.errors import ConfigError, DataError
from mmpt.model import MaskedModel
from mmpt.objectives import Objective
from mmpt.objectives.masking.algebra import Masking, MaskingSettings
from mmpt.objectives.masking.unit import Unit
from mmpt.objectives.masking.unit.tube import TubeUnit
from mmpt.objectives.targets.pixels import PixelsTarget
from mmpt.tokens import StreamContext
from tests.encoders.video_material import clip, video_modality

DECODER = {"type": "decoder", "width": 16, "depth": 1, "heads": 2}


@pytest.fixture
def video_of(tmp_path):
    return lambda **settings: video_modality(tmp_path, **settings)


@pytest.fixture
def content(modalities, full_contents):
    return full_contents("video")


def counted(frames, side=16):
    """Frames each of whose pixels has the number of the frame."""
    return np.broadcast_to(np.arange(frames, dtype=np.uint8)[:, None, None, None], (frames, side, side, 3)).copy()


# ---- reading


def test_a_token_holds_the_pixels_of_its_frames_row_and_column(video_of):
    video = video_of(stride=1)
    frames = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    tokens = video.read(frames, 0, 4, None)
    names = video.token_names(video.collate([[tokens]], None), 0)
    for time, row, column in ((0, 0, 0), (0, 2, 3), (1, 3, 1)):
        number = names.index(f"frames {2 * time} to {2 * time + 1} row {row} column {column}")
        box = frames[2 * time : 2 * time + 2, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        assert np.array_equal(tokens[number], box.reshape(-1))


def frames_read(video, value, start, stop, draw=None):
    tokens = video.read(value, start, stop, draw).reshape(video.times, -1, video.tubelet, video.patch**2 * 3)
    return tokens[:, 0, :, 0].reshape(-1).tolist()


def test_a_clip_stands_in_the_middle_of_its_piece_and_in_training_anywhere(video_of):
    value, video = counted(40), video_of(shift=True)
    assert frames_read(video, value, 20, 30) == [21, 23, 25, 27]
    starts = {frames_read(video, value, 20, 30, draw)[0] for draw in range(200)}
    assert starts == {20, 21, 22, 23}
    assert {frames_read(video_of(), value, 20, 30, draw)[0] for draw in range(20)} == {21}


def test_where_few_frames_are_there_the_stride_is_what_fits(video_of):
    assert frames_read(video_of(stride=5), counted(8), 0, 8) == [0, 2, 4, 6]
    assert frames_read(video_of(stride=5), counted(4), 0, 4) == [0, 1, 2, 3]


def test_a_clip_with_too_few_frames_is_refused_with_a_sentence(video_of):
    with pytest.raises(DataError, match="3 frames, where a clip has 4; leave it out, or lower the stream's frames"):
        video_of().read(counted(3), 0, 15, None)


def test_a_recording_is_cut_into_pieces_in_which_a_clip_fits(video_of):
    video = video_of()  # a clip reaches over 8 frames
    assert [len(video.pieces(length)) for length in (1, 7, 8, 15, 16, 23, 24, 100)] == [1, 1, 1, 1, 2, 2, 3, 12]
    for length in range(8, 200):
        sizes = [stop - start for start, stop in video.pieces(length)]
        assert sum(sizes) == length
        assert video.span <= min(sizes) <= max(sizes) <= video.limit


def test_all_frames_are_cropped_and_mirrored_alike(video_of):
    video = video_of(crop_scale=(0.3, 0.6), flip=True)
    still = np.repeat(clip(3, 1), 8, axis=0)
    seen = set()
    for draw in range(8):
        tokens = video.read(still, 0, 8, draw).reshape(2, 16, 2, -1)
        assert (tokens == tokens[:1, :, :1]).all()
        seen.add(tokens.tobytes())
    assert len(seen) == 8


def test_pictures_and_arrays_of_a_user_become_frames(video_of):
    video, frames = video_of(), clip(1)
    assert np.array_equal(video.convert([Picture.fromarray(frame) for frame in frames]), frames)
    assert video.convert(frames) is frames
    mixed = [Picture.new("RGB", (8, 8)), Picture.new("RGB", (9, 8))]
    for wrong, sentence in ((mixed, "got frames of 8 x 8 and 9 x 8"), (frames[0], "got uint8 of 20 x 24 x 3"),
                            (frames / 255, "got float64 of"), ("clip.gif", "got str")):  # fmt: skip
        with pytest.raises(DataError, match=f"expected a uint8 array of frames x height x width x 3.*{sentence}"):
            video.convert(wrong)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"patch": 5}, "patch: 5 does not divide size 16; choose a divisor of 16"),
        ({"tubelet": 3}, "tubelet: 3 does not divide frames 4; choose a divisor of 4"),
        ({"frames": 0}, "tubelet: 2 does not divide frames 0"),
        ({"stride": 0}, "stride: expected 1 frame or more, got 0"),
        ({"crop_scale": (0.5, 2.0)}, "crop_scale: expected 0 < smallest <= largest <= 1"),
    ],
)
def test_settings_that_make_no_clip_are_refused(video_of, wrong, sentence):
    with pytest.raises(ConfigError, match=sentence):
        video_of(**wrong)


def test_positions_tell_time_row_and_column_apart(video_of):
    table = video_of(frames=8).encoder(32).place_table(32).view(4, 4, 4, 32)
    time, space = table[..., :8], table[..., 8:]
    assert torch.equal(time, time[:, :1, :1].expand(-1, 4, 4, -1))
    assert torch.equal(space, space[:1].expand(4, -1, -1, -1))
    assert len(table.flatten(0, 2).unique(dim=0)) == 64
    flat = video_of(frames=8, positions="flat").encoder(32).place_table(32)
    assert len(flat.unique(dim=0)) == 64
    assert video_of(positions="learned").encoder(32).position.requires_grad


# ---- tubes, and pixels of tubelets


def test_a_tube_is_one_place_at_all_times_and_their_number_is_known(modalities, content):
    video = modalities["video"]
    masking = Masking(video, MaskingSettings(ratio=0.9, unit=component(Unit, "tube")))
    masks = []
    for seed in range(20):
        hidden = masking(StreamContext(content, torch.arange(len(content.valid)) + 100 * seed, 0.0))
        frames = hidden.view(len(hidden), video.times, -1)
        assert torch.equal(frames, frames[:, :1].expand_as(frames))
        assert (frames[:, 0].sum(1) == 15).all()  # 16 - floor(16 x 0.1)
        masks.append(frames[:, 0])
    assert masking.count(content, 0.0) == 15 * video.times
    shares = torch.cat(masks).float().mean(0)
    assert ((shares - 15 / 16).abs() < 0.1).all()


def test_tubes_have_a_meaning_for_video_only(image):
    with pytest.raises(ConfigError, match="unit 'tube' has a meaning for video only"):
        TubeUnit(image)


def test_targets_are_standardised_by_tubelet_and_channel(modalities, content):
    context = StreamContext(content, torch.arange(len(content.valid)), 0.0)
    target = PixelsTarget(modalities["video"])(context).unflatten(2, (-1, 3))
    assert_close(target.mean(2), torch.zeros_like(target[:, :, 0]), rtol=0, atol=1e-4)
    assert_close(target.var(2), torch.ones_like(target[:, :, 0]), rtol=0, atol=1e-3)
    plain = PixelsTarget(modalities["video"], normalize=False)(context).unflatten(2, (-1, 3))
    mean, std = modalities["video"].normalisation()
    assert_close(plain * std + mean, content.values.unflatten(2, (-1, 3)) / 255, rtol=0, atol=1e-5)


@pytest.mark.parametrize("views", [1, 2])
def test_hard_tubes_are_mined_whole(modalities, backbone_of, randomised, content, batch_of, views):
    chosen = {"video": modalities["video"]}
    backbone = backbone_of(chosen)
    stream = {
        "masking": {"ratio": 0.75, "unit": "tube", "importance": {"type": "predicted_loss", "start": 0.5, "end": 0.5}},
        "corruption": "drop",
        "predictor": DECODER,
        "loss_predictor": {"predictor": DECODER},
        "target": "pixels",
    }
    teacher = {"start": 0.5, "end": 0.5, "views": views}
    objective = component(Objective, "masked_prediction", streams={"video": stream}, teacher=teacher)
    model, batch = randomised(MaskedModel(backbone, objective.build(backbone, chosen))), batch_of(video=content)
    hidden = model.hide(batch, 0.5)["video"]
    of_tubes = model.objective.teacher.look(batch, 0.5)["video"].view(len(content.valid), 2, 16).mean(1)
    frames = hidden.hidden.view(len(content.valid), 2, 16)
    assert torch.equal(frames[:, 0], frames[:, 1])
    assert hidden.hidden_count == 24
    hardest = of_tubes.argsort(1, descending=True)[:, :6]  # half of the 12 that are hidden
    assert frames[:, 0].gather(1, hardest).all()
    before = [p.clone() for p in model.objective.teacher.parameters()]
    step = model(batch, {"video": hidden}, 0.5)
    (step.losses["video"].total + step.balance).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert step.metrics["video/hard_overlap"][1] == 12 * len(content.valid)
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.add_(0.1)
    model.after_update(0.5)
    assert any(not torch.equal(p, q) for p, q in zip(before, model.objective.teacher.parameters(), strict=True))
