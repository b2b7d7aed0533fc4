"""Classes of pixels: what is learned, that labels go where their picture goes, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, jaccard_score
from walks import walk

import mmpt
from mmpt.errors import ConfigError, DataError
from mmpt.finetune import Segmenter
from mmpt.finetune.examples import examples_of
from mmpt.finetune.rows import Rows, known_labels

QUICK = {"epochs": 1, "batch_size": 16}
GROUND, SKY, EDGE = 3, 9, 255


@pytest.fixture(scope="module")
def encoder(run):
    return mmpt.load(run)


def scene(number):
    """Blue above green, the horizon somewhere, and its lines count nothing."""
    generator = np.random.default_rng([5, number])
    pixels = generator.integers(0, 120, (20, 24, 3))
    horizon = int(generator.integers(4, 16))
    pixels[:horizon, :, 2] += 100
    pixels[horizon:, :, 1] += 100
    label = np.full((20, 24), GROUND, dtype=np.uint8)
    label[:horizon] = SKY
    label[horizon - 1 : horizon + 1] = EDGE
    return {"image": Image.fromarray(pixels.astype(np.uint8)), "classes": label}


def scenes(numbers):
    return [scene(number) for number in numbers]


@pytest.fixture(scope="module")
def fitted(encoder):
    task = Segmenter(encoder, label="classes", stream="image")
    return task.fit(scenes(range(60)), scenes(range(60, 80)), epochs=6, batch_size=8, learning_rate=1e-2)


def test_a_segmenter_learns_and_its_metrics_are_those_of_scikit_learn(fitted, encoder):
    assert fitted.metrics["mean_iou"].value > 0.8
    assert fitted.trivial["mean_iou"] < 0.5
    said = fitted.task.predict([{"image": own["image"]} for own in scenes(range(60, 80))])
    assert all(own.shape == (16, 16) and set(np.unique(own)) <= {GROUND, SKY} for own in said)
    boxes = [encoder.modalities["image"].view(own["image"].size, None)[0] for own in scenes(range(60, 80))]
    labels = [Image.fromarray(own["classes"]) for own in scenes(range(60, 80))]
    true = [np.asarray(own.resize((16, 16), Image.Resampling.NEAREST, box=box)) for own, box in zip(labels, boxes)]  # noqa: B905
    true, said = np.concatenate(true).ravel(), np.concatenate(said).ravel()
    counted = true != EDGE
    assert fitted.metrics["pixel_accuracy"].value == pytest.approx(accuracy_score(true[counted], said[counted]))
    iou = jaccard_score(true[counted], said[counted], average="macro")
    assert fitted.metrics["mean_iou"].value == pytest.approx(iou)


def test_a_label_is_cropped_and_mirrored_as_its_picture_is(encoder):
    """The picture's own grey levels are the label."""
    grey = np.arange(20, dtype=np.uint8)[:, None] * 8 + np.arange(24, dtype=np.uint8)[None, :] * 4
    sample = {"image": Image.fromarray(np.stack([grey] * 3, axis=2)), "classes": grey}
    task = Segmenter(encoder, label="classes", stream="image")
    examples = examples_of([sample], ["image"], label="classes", split="train")
    task.facts = task.learn(examples.labels)
    rows = Rows(task, examples, known_labels(task, examples)[0], augment=True)
    levels, seen = np.array(task.facts["classes"]), set()
    for epoch in range(6):
        batch = rows.batch([0], epoch=epoch)
        patches = batch.streams["image"].values[0, 1:].reshape(4, 4, 4, 4, 3).permute(0, 2, 1, 3, 4).reshape(16, 16, 3)
        label = levels[batch.labels.values[0].numpy()]
        assert np.abs(patches[:, :, 0].numpy().astype(int) - label).max() <= 8  # bicubic beside nearest
        seen.add(bool(label[0, 0] > label[0, -1]))
    assert seen == {True, False}
    assert batch.labels.known.all()


def test_a_grey_picture_and_lists_are_labels_as_arrays_are(encoder):
    task, array = Segmenter(encoder, label="classes", stream="image"), scene(0)["classes"]
    task.facts = task.learn([array])
    picture = Image.fromarray(array)
    for other in (picture, picture.convert("RGB"), array.tolist(), array.astype(np.float32), array[:, :, None]):
        np.testing.assert_array_equal(task.read(other), task.read(array))


def test_a_label_picture_may_be_a_field_of_the_data_set(encoder, write_shards, tmp_path):
    samples = [
        scene(number) | {"__group__": f"{number}", "__split__": ("train", "validation")[number % 2]}
        for number in range(8)
    ]
    arrays = write_shards(tmp_path / "arrays", samples, image="png", classes="npy")
    pictures = [sample | {"classes": Image.fromarray(sample["classes"])} for sample in samples]
    greys = write_shards(tmp_path / "greys", pictures, image="png", classes="classes.png")
    results = [Segmenter(encoder, label="classes", stream="image").fit(data, **QUICK) for data in (arrays, greys)]
    assert results[0].task.facts == results[1].task.facts == {
        "classes": [GROUND, SKY], "counts": results[0].task.facts["counts"]
    }  # fmt: skip
    assert results[0].metrics == results[1].metrics


def test_rows_without_a_label_count_nothing(encoder):
    task = Segmenter(encoder, label="classes", stream="image")
    examples = examples_of([scene(0), {"image": scene(1)["image"]}], ["image"], label="classes", split="train")
    task.facts = task.learn(examples.labels[:1])
    labels = Rows(task, examples, known_labels(task, examples)[0]).batch([0, 1], padding=1).labels
    assert labels.known.flatten(1).sum(1).tolist()[1:] == [0, 0]
    assert 0 < labels.known[0].sum() < 256
    assert torch.equal(labels.values[1], torch.zeros(16, 16, dtype=torch.int64))


@pytest.mark.parametrize(
    ("label", "sentence"),
    [
        (np.full((16, 24), SKY), r"sample 1: .*a label of 16 x 24 pixels \(rows x columns\) for a picture of 20 x 24"),
        (np.full((20, 24), 7), "sample 1: label 'classes': 7 is no class of the training samples, which have 3, 9"),
        (np.full((20, 24), np.nan), "sample 1: label 'classes': expected a label picture: .*got NaN among them"),
        (np.full((20, 24), 0.5), "sample 1: .*expected a label picture: .*got float64"),
        (np.arange(480).reshape(20, 8, 3), "sample 1: .*expected a label picture: .*got 20 x 8 x 3"),
        ("sky", "sample 1: .*expected a label picture: .*got str"),
    ],
)
def test_labels_that_contradict_their_picture_are_refused_and_it_is_named(encoder, label, sentence):
    validation = scenes(range(10, 13))
    validation[1]["classes"] = label
    with pytest.raises(DataError, match=sentence):
        Segmenter(encoder, label="classes", stream="image").fit(scenes(range(10)), validation, **QUICK)


def test_what_can_not_be_divided_into_classes_is_refused(encoder):
    with pytest.raises(ConfigError, match="the encoder has no stream 'photo'; it has text, image"):
        Segmenter(encoder, label="classes", stream="photo")
    with pytest.raises(ConfigError, match="pictures are divided into classes, and 'text' is a stream of text"):
        Segmenter(encoder, label="classes", stream="text")
    task = Segmenter(encoder, label="classes", stream="image")
    with pytest.raises(DataError, match="no sample has a label 'classes'"):
        task.fit([{"image": walk(0)["image"]}], scenes(range(2)), **QUICK)
    sky = scene(0) | {"classes": np.full((20, 24), SKY)}
    with pytest.raises(DataError, match="label 'classes' is 9 in every pixel of all 1 training samples"):
        task.fit([sky], scenes(range(2)), **QUICK)
