import io
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from report.clinic import COLUMNS, LEADS, visit, write_run, write_visits
from walks import make_run, picture, prose

import mmpt
from mmpt.data.source import Source
from mmpt.downstream.encoder import CutWarning
from mmpt.errors import CheckpointError, DataError
from mmpt.tokens import Batch


@pytest.fixture(scope="module")
def encoder(run):
    return mmpt.load(run, device="cpu")


def samples(count: int) -> list[dict]:
    return [{"text": prose(n % 2, n, words=1 + n % 9), "image": picture(n % 2, n)} for n in range(count)]


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, atol=1e-5)


def test_an_encoder_says_in_a_line_what_it_is(encoder, run):
    assert repr(encoder) == f"Encoder({run}, step {encoder.step}: text, image; width {encoder.width}, {encoder.device})"
    assert "untrained" in repr(mmpt.load(run, untrained=True))


def test_features_are_float32_on_the_host_one_row_a_sample(encoder):
    features = encoder.encode(samples(5)).pooled
    assert features.shape == (5, encoder.width)
    assert (features.dtype, features.device.type, features.requires_grad) == (torch.float32, "cpu", False)
    assert not features.is_inference()  # a head may be trained on them


@pytest.mark.parametrize("pool", ["mean", "class"])
def test_a_sample_alone_is_encoded_as_among_longer_ones(encoder, pool):
    given = samples(9)
    together = encoder.encode(given, pool=pool)
    for number, sample in enumerate(given):
        assert close(encoder.encode([sample], pool=pool)[0], together[number])


def test_order_is_kept_whatever_the_batch_size(encoder):
    given = samples(20)
    pooled = encoder.encode(given).pooled
    assert close(pooled, encoder.encode(given, batch_size=1).pooled)
    assert close(pooled.flip(0), encoder.encode(reversed(given), batch_size=7).pooled)


def test_the_recipe_s_dropped_paths_and_augmentation_are_off(encoder):
    assert encoder.recipe.trunk.settings["drop_path"] > 0
    assert encoder.recipe.streams["image"].settings["flip"]
    assert torch.equal(encoder.encode(samples(8), pool="mean"), encoder.encode(samples(8), pool="mean"))


def test_a_missing_stream_takes_no_part(encoder):
    both, text, image = samples(1)[0], {"text": samples(1)[0]["text"]}, {"image": samples(1)[0]["image"]}
    features = encoder.encode([text, both, image]).pooled
    assert close(features[0], encoder.encode(text).pooled[0])
    assert close(features[2], encoder.encode(image).pooled[0])
    assert not close(features[0], features[1])
    assert not close(features[2], features[1])


def test_the_mean_is_over_the_observed_tokens_of_all_streams(encoder):
    given = samples(3)
    features, tokens = encoder.encode(given)
    assert close(features, encoder.encode(given, pool="mean"))
    for number in range(3):
        shown = torch.cat([own.latents[number][own.observed[number]] for own in tokens.values()])
        assert close(shown.mean(dim=0), features[number])
    first = torch.stack([own.latents[:, 0] for own in tokens.values()]).mean(dim=0)
    assert close(first, encoder.encode(given, pool="class"))


def test_tokens_keep_order_and_pad_what_is_absent(encoder):
    given = [{"text": prose(0, 1, words=9)}, {"image": picture(0, 0)}, {"text": "wave"}]
    tokens = encoder.encode(given, batch_size=1).streams
    assert set(tokens) == {"text", "image"}
    assert tokens["image"].valid.any(dim=1).tolist() == [False, True, False]
    assert tokens["image"].latents.shape == (3, 17, encoder.width)
    counts = tokens["text"].valid.sum(dim=1)
    assert counts[0] > counts[2] > counts[1] == 0
    assert close(
        tokens["text"].latents[2, : counts[2]],
        encoder.encode(given[2]).streams["text"].latents[0, : counts[2]],
    )


def test_an_empty_text_has_features_too(encoder):
    features = encoder.encode([{"text": ""}, {"text": "wave"}])
    assert features.pooled.isfinite().all()
    assert close(features.streams["text"].pooled, features.pooled)


def test_long_text_is_cut_and_it_is_said(encoder):
    long = prose(0, 3, words=60)
    with pytest.warns(CutWarning, match=r"1 of 2 samples were cut, .* \(text 22, image 1\)"):
        features = encoder.encode([{"text": long}, {"text": "wave"}]).pooled
    with pytest.warns(CutWarning):
        assert close(features[0], encoder.encode({"text": long + " something else"}).pooled[0])


def test_text_of_just_the_limit_is_not_cut(encoder):
    text, words = encoder.modalities["text"], prose(0, 3, words=60).split()
    count = max(n for n in range(61) if len(text.read(" ".join(words[:n]), 0, 1000, None)) <= 24)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        names = encoder.encode({"text": " ".join(words[:count])}).streams["text"].names[0]
    assert sum(map(bool, names)) > 20


def test_every_kind_of_picture_value_gives_the_same_features(encoder, tmp_path):
    own = picture(1, 5)
    file = io.BytesIO()
    own.save(file, "PNG")
    (tmp_path / "own.png").write_bytes(file.getvalue())
    values = [
        own,
        np.asarray(own),
        file.getvalue(),
        tmp_path / "own.png",
        str(tmp_path / "own.png"),
        own.convert("RGBA"),
    ]
    features = encoder.encode([{"image": value} for value in values], pool="mean")
    assert close(features, features[:1].expand_as(features))
    grey = np.asarray(own.convert("L"))
    features = encoder.encode(
        ({"image": value} for value in (grey, grey[:, :, None], Image.fromarray(grey))), pool="mean"
    )
    assert close(features, features[:1].expand_as(features))


def test_a_collated_batch_is_encoded_as_its_samples(encoder):
    modalities = encoder.modalities
    texts = [prose(0, n, words=3 + n) for n in range(3)]
    rows = [[modalities["text"].read(text, 0, 22, None)] for text in texts]
    uid = torch.arange(3)
    batch = Batch({"text": modalities["text"].collate(rows, None)}, uid, uid, "mine", 0)
    one, other = encoder.encode(batch), encoder.encode([{"text": text} for text in texts])
    assert close(one.pooled, other.pooled)
    assert one.streams["text"].names == other.streams["text"].names


def test_a_batch_of_the_loader_is_encoded(encoder):
    settings = encoder.recipe.data.sources["walks"]
    rows = Source("walks", 0, settings, encoder.modalities, 0).rows([0, 1, 2])
    batch = Batch(rows.streams, rows.uid, rows.uid, "walks", 0)
    assert encoder.encode(batch, pool="mean").shape == (3, encoder.width)


def test_no_samples_give_no_features(encoder):
    nothing = encoder.encode([])
    assert nothing.pooled.shape == encoder.encode([], pool="mean").shape == (0, encoder.width)
    assert nothing.streams == {}


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"imgae": 1}, r"sample 1: this run has no stream 'imgae'; did you mean 'image'\? it has text, image"),
        ({}, r"sample 1: expected a dict with any of text, image"),
        ({"text": 3}, r"sample 1: field 'text': expected a str, UTF-8 bytes or a Path, got int"),
        ({"text": None}, r"sample 1: field 'text': expected a str.* got NoneType"),
        ({"text": b"\xff"}, r"sample 1: field 'text': not UTF-8 text"),
        ({"text": "a\ud800"}, r"sample 1: field 'text': character 1 can't be written as UTF-8"),
        ({"image": b"GIF89a"}, r"sample 1: field 'image': not a PNG, JPEG or WebP picture"),
        ({"image": "no/such.png"}, r"sample 1: field 'image': no/such\.png: can't be read \(No such file"),
        ({"image": np.zeros((4, 4, 3))}, r"sample 1: field 'image': expected .* got float64 of 4 x 4 x 3"),
        ({"image": 7}, r"sample 1: field 'image': expected a PIL image, .* got int"),
    ],
)
def test_a_value_that_cannot_be_read_is_named_by_its_number(encoder, sample, message):
    with pytest.raises(DataError, match=message):
        encoder.encode([{"text": "wave"}, sample])


def test_a_padding_row_of_a_batch_is_refused(encoder):
    text = encoder.modalities["text"]
    uid = torch.arange(2)
    batch = Batch({"text": text.collate([[text.read("wave", 0, 22, None)], []], None)}, uid, uid, "mine", 0)
    with pytest.raises(DataError, match="row 1 of the batch has no tokens"):
        encoder.encode(batch)


def test_trained_and_untrained_differ_and_steps_can_be_chosen(run):
    given = samples(2)
    newest, first, fresh = mmpt.load(run), mmpt.load(run, step=1), mmpt.load(run, untrained=True)
    assert (newest.step, first.step, fresh.step) == (2, 1, None)
    features = [encoder.encode(given, pool="mean") for encoder in (newest, first, fresh)]
    assert not any(close(features[a], features[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    assert close(features[0], mmpt.load(run, step=2).encode(given).pooled)
    assert close(features[2], mmpt.load(run, untrained=True).encode(given).pooled)


def test_the_newest_whole_checkpoint_is_loaded(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "checkpoints" / "step-000000002" / "model.safetensors").write_bytes(b"damage")
    assert mmpt.load(copy).step == 1
    with pytest.raises(CheckpointError, match=r"step-000000002.* differ"):
        mmpt.load(copy, step=2)
    shutil.rmtree(copy / "checkpoints" / "step-000000001")
    with pytest.raises(CheckpointError, match="none of the 1 checkpoints is whole"):
        mmpt.load(copy)


def test_what_cannot_be_loaded_says_what_there_is(run, shards, tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 7; there are 1, 2"):
        mmpt.load(run, step=7)
    with pytest.raises(CheckpointError, match=r"there is no recipe\.yaml, so this is not a run folder"):
        mmpt.load(tmp_path)
    with pytest.raises(CheckpointError, match="there is no such folder, and nothing is downloaded"):
        mmpt.load("bert-base-uncased")
    begun = make_run(tmp_path / "begun", shards, steps=())
    with pytest.raises(CheckpointError, match="there is no checkpoint yet"):
        mmpt.load(begun)
    assert mmpt.load(begun, untrained=True).step is None


def test_a_run_needs_neither_its_shards_nor_deepspeed(run, tmp_path):
    moved = shutil.copytree(run, tmp_path / "moved")
    recipe = moved / "recipe.yaml"
    lines = [
        f"{line.split('shards:')[0]}shards: /gone" if "shards:" in line else line
        for line in recipe.read_text().splitlines()
    ]
    recipe.write_text("\n".join(lines) + "\n")
    program = f"""
import sys, mmpt
encoder = mmpt.load({str(moved)!r})
print(encoder.encode({{"text": "wave"}}).pooled.shape, "deepspeed" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["torch.Size([1, 16]) False"]


def test_a_single_sample_is_a_list_of_one(encoder):
    sample = samples(1)[0]
    one, several = encoder.encode(sample), encoder.encode([sample])
    assert torch.equal(one.pooled, several.pooled)
    assert one.streams.keys() == several.streams.keys() == sample.keys()


def test_every_token_has_a_name_and_padding_none(encoder):
    given = [{"text": prose(0, 1, words=9)}, {"image": picture(0, 0)}, {"text": "wave"}]
    tokens = encoder.encode(given, batch_size=1).streams
    for own in tokens.values():
        assert [[bool(name) for name in row] for row in own.names] == own.valid.tolist()
    assert tokens["image"].names[1][:2] == ["class", "row 0 column 0"]
    assert tokens["text"].names[2][0] == "<s>"


@pytest.mark.parametrize("batch_size", [1, 2])
def test_each_stream_has_a_mean_of_its_own_and_none_where_it_is_absent(encoder, batch_size):
    both, text = samples(1)[0], {"text": samples(1)[0]["text"]}
    streams = encoder.encode([both, text], batch_size=batch_size).streams
    for row, own in ((0, streams["text"]), (0, streams["image"]), (1, streams["text"])):
        assert close(own.latents[row][own.observed[row]].mean(dim=0), own.pooled[row])
    assert streams["image"].pooled[1].isnan().all()
    assert close(streams["text"].pooled[1], encoder.encode(text, pool="mean")[0])


def test_mean_std_puts_the_deviation_of_the_same_tokens_behind_their_mean(encoder):
    samples = [{"text": "a wren in the hedge"}, {"text": "an owl"}]
    tokens = encoder.encode(samples).streams["text"]
    features = encoder.encode(samples, pool="mean_std")
    assert torch.allclose(features[:, : encoder.width], encoder.encode(samples).pooled, atol=1e-6)
    for row in range(2):
        own = tokens.latents[row][tokens.observed[row]]
        assert torch.allclose(features[row, encoder.width :], own.std(dim=0, correction=0), atol=1e-5)


@pytest.fixture(scope="module")
def clinic(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clinic")
    return mmpt.load(write_run(folder / "run", write_visits(folder / "shards")), device="cpu")


def test_arrays_dicts_and_paths_of_any_subset_of_streams_are_encoded(clinic, tmp_path):
    sound, ecg, cells = (visit(2)[name] for name in ("speech", "ecg", "labs"))
    np.save(tmp_path / "own.npy", ecg)
    soundfile.write(tmp_path / "own.wav", sound[0], sound[1], subtype="FLOAT")
    named = {COLUMNS[int(c)]["name"]: COLUMNS[int(c)].get("categories", {int(v): v})[int(v)] for c, v in cells}
    given = [
        {"speech": sound, "ecg": ecg, "labs": cells},
        {"speech": tmp_path / "own.wav", "ecg": str(tmp_path / "own.npy"), "labs": cells},
        {"speech": sound, "ecg": {lead: ecg[:, n] for n, lead in enumerate(LEADS)}, "labs": cells},
        {"ecg": ecg},
        {"labs": named},
    ]
    features = clinic.encode(given)
    assert close(features.pooled[1], features.pooled[0])
    assert close(features.pooled[2], features.pooled[0])
    assert [own.valid.any(dim=1).tolist() for own in features.streams.values()] == [
        [True, True, True, False, False],
        [True, True, True, True, False],
        [True, True, True, False, True],
    ]
    assert features.streams["ecg"].names[3][0] == "I 0.00-0.20 s"
    assert set(filter(None, features.streams["labs"].names[4])) == {
        f"{column['name']} [{column['unit']}]" if column["unit"] else column["name"]
        for column in COLUMNS
        if column["name"] in named
    }


@pytest.mark.parametrize("empty", [{}, {COLUMNS[0]["name"]: None}])
def test_a_sample_without_a_token_is_named_by_its_number(clinic, empty):
    """Not by its place among the samples in order of their length."""
    given = [{"labs": visit(2)["labs"]}, {"ecg": visit(2)["ecg"]}, {"labs": empty}]
    for pool in (None, "mean_std"):
        with pytest.raises(DataError, match=r"^sample 2: has no tokens; leave it out$"):
            clinic.encode(given, pool=pool, batch_size=2)


@pytest.mark.parametrize("name", ["speech", "ecg"])
def test_recordings_longer_than_a_row_are_cut_and_it_is_said(clinic, name):
    value = visit(2)[name]
    longer = (np.tile(value[0], 3), 8000) if name == "speech" else np.tile(value, (3, 1))
    long, cut = (longer, (longer[0][:8000], 8000)) if name == "speech" else (longer, longer[:200])
    with pytest.warns(CutWarning, match="1 of 1 samples were cut"):
        features = clinic.encode({name: long}, pool="mean")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert close(features, clinic.encode({name: cut}, pool="mean"))
