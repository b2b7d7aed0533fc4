"""What is shown is what the model was given and what it said."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from mmpt.config import component
from mmpt.data.layouts import Layout
from mmpt.data.source import UID_SHIFT, Source, SourceSettings, row_draw
from mmpt.errors import DataError
from mmpt.objectives.predictors import Latents
from mmpt.objectives.targets.pixels import PixelsTarget
from mmpt.report import reconstruction_figure
from mmpt.report.figures import LARGEST_SIDE, POINTS, Curve, encode_picture, line_chart, running_mean, thinned
from mmpt.report.reconstructions import reconstruct
from mmpt.report.views.image import GREY, Triple, assemble, to_pixels
from mmpt.report.views.text import Guess, Word, percent, spelled, verdict, visible
from mmpt.tokens import Batch, StreamContext, replace, score


@pytest.fixture(scope="module")
def parts(pretrained):
    return list(reconstruct(pretrained))


@pytest.fixture(scope="module")
def triples(parts):
    return [triple for part in parts for sample in part.samples for triple in pictures(sample)]


def pictures(sample):
    return [seen for seen in sample.seen.values() if isinstance(seen, Triple)]


def source_of(pretrained, number, name, split):
    settings = pretrained.recipe.data.sources[name]
    plain = SourceSettings(
        shards=settings.shards, streams=settings.streams, split=split, layout=component(Layout, "samples")
    )
    return Source(name, number, plain, pretrained.modalities, pretrained.recipe.training.seed)


def hidden_patches(triple):
    """By looking at the masked picture alone; True where a patch is all grey."""
    blocks = triple.masked.reshape(4, 4, 4, 4, 3).transpose(0, 2, 1, 3, 4).reshape(16, -1)
    return (blocks == GREY).all(1)


def test_samples_come_from_the_validation_split_of_every_source(pretrained, parts):
    assert [(part.source, part.split) for part in parts] == [("prose", "validation"), ("captioned", "validation")]
    for number, part in enumerate(parts):
        source = source_of(pretrained, number, part.source, "validation")
        keys = {str(source.reader.key[sample]) for sample in source.samples}
        assert {sample.key for sample in part.samples} <= keys
    assert [len(part.samples) for part in parts] == [3, 8]


def test_joint_samples_have_both_streams_and_lone_pictures_one(parts):
    assert {tuple(sample.seen) for sample in parts[1].samples} == {("image", "text"), ("image",)}


def test_visible_patches_are_the_originals_and_hidden_ones_are_predicted(triples):
    for triple in triples:
        hidden = np.kron(hidden_patches(triple).reshape(4, 4), np.ones((4, 4), bool))
        assert hidden.mean() == 0.75
        assert (triple.masked[~hidden] == triple.original[~hidden]).all()
        assert (triple.predicted[~hidden] == triple.original[~hidden]).all()
        assert (triple.predicted[hidden] != GREY).any()


def test_the_original_is_the_picture_without_augmentation(pretrained, parts):
    source = source_of(pretrained, 1, "captioned", "validation")
    image = pretrained.modalities["image"]
    keys = [str(key) for key in source.reader.key]
    for sample in parts[1].samples:
        raw = source.reader.read(keys.index(sample.key))["image"]
        patches = torch.from_numpy(image.read(raw, 0, 1, None)[1:])
        assert (sample.seen["image"].original == assemble(image, patches)).all()
        assert (sample.seen["image"].original == np.asarray(raw.resize((16, 16), 3, box=(2, 0, 18, 16)))).all()


@pytest.mark.parametrize("normalize", [True, False])
def test_a_perfect_prediction_gives_the_picture_back(pretrained, parts, normalize):
    image = pretrained.modalities["image"]
    target = PixelsTarget(image, normalize=normalize)
    values = torch.randint(0, 256, (2, 17, image.patch_numbers), dtype=torch.uint8)
    values[0, 3] = 77  # a patch of one colour has no deviation
    content = image.collate([[row.numpy()] for row in values], None)
    perfect = target(StreamContext(content, torch.zeros(2, dtype=torch.int64), 0.0))
    assert (to_pixels(target, perfect[0], values[0]) == values[0]).all()


def test_predictions_that_are_not_finite_or_too_bright_stay_pictures(pretrained):
    target = PixelsTarget(pretrained.modalities["image"], normalize=False)
    wild = torch.full((1, target.size), float("nan"))
    wild[0, :9] = 1e9
    pixels = to_pixels(target, wild, torch.zeros(1, target.size, dtype=torch.uint8))
    assert (pixels[0, :9] == 255).all()


def test_guesses_are_the_five_likeliest_tokens_of_the_model(pretrained, parts):
    """Each passage alone, step by step, without the objective's own bookkeeping."""
    model, text = pretrained.model, pretrained.modalities["text"]
    part, source = model.objective.streams["text"], source_of(pretrained, 0, "prose", "validation")
    keys = source.reader.key[source.pieces.sample].tolist()
    for sample in parts[0].samples:
        row = keys.index(sample.key)
        number, start, stop = (int(column[row]) for column in source.pieces[:3])
        content = text.collate([[source.read_sample(number, start, stop, None)["text"]]], None)
        uid = torch.tensor([0 << UID_SHIFT | row])
        batch = Batch({"text": content}, uid, row_draw(0, torch.zeros_like(uid), uid), "prose", 0)
        hidden = model.hide(batch, 1.0)["text"].hidden
        tokens = model.backbone.embed(batch)["text"]
        shown = replace(tokens, torch.where(hidden.unsqueeze(2), part.corruption.vector, tokens.x))
        every, _ = model.backbone.mix({"text": shown}, {"text": hidden.shape[1]}, batch.draw)
        logits = part.predictor(Latents(every.x, shown, every, batch.draw), content, score(hidden, None))
        top = logits.softmax(-1).topk(5)
        guessed = [word for word in sample.seen["text"] if word.guesses]
        assert [word.id for word in guessed] == content.values[hidden].tolist()
        assert [[guess.id for guess in word.guesses] for word in guessed] == top.indices.tolist()
        found = torch.tensor([[guess.probability for guess in word.guesses] for word in guessed])
        assert torch.allclose(found, top.values, atol=1e-6)


def test_every_hidden_token_has_guesses_and_no_other_has(parts):
    words = [word for part in parts for sample in part.samples for word in sample.seen.get("text", [])]
    assert any(word.hidden for word in words)
    assert all(bool(word.guesses) == word.hidden for word in words)


def test_tokens_spell_the_passage(pretrained, parts):
    reader = source_of(pretrained, 0, "prose", "validation").reader
    keys = [str(key) for key in reader.key]
    for sample in parts[0].samples:
        assert "".join(word.text for word in sample.seen["text"]) == reader.read(keys.index(sample.key))["text"]


def test_wordpiece_is_spelled_too(pretrained, tmp_path):
    from mmpt.data.tokenizer import tokenizer_facts, train_tokenizer
    from mmpt.encoders import Facts
    from mmpt.encoders.text import Text

    train_tokenizer(["harbour lantern harbours"] * 3, tmp_path / "t", vocabulary=300, algorithm="wordpiece")
    text = Text(Facts(tmp_path, tokenizer_facts(tmp_path / "t")))
    ids = text.tokenizer.encode("lanterns harbour", add_special_tokens=False).ids
    assert "".join(spelled(text, number) for number in ids) == " lanterns harbour"


def test_the_verdict_is_the_rank_of_the_truth():
    guesses = (Guess(7, " a", 0.5), Guess(8, "b", 0.0123))
    assert [verdict(Word(n, "x", True, guesses)).style for n in (7, 8, 9)] == ["right", "near", "missed"]
    assert verdict(Word(7, "x", True)).style == "unscored"
    assert [percent(guess) for guess in guesses] == ["50 %", "1.2 %"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [(" the", "the"), ("ing", "\N{NON-BREAKING HYPHEN}ing"), (",", ","), ("\n", "⏎"), (" ", "␣"), ("", "")],
)
def test_white_space_and_joined_tokens_are_visible(text, shown):
    assert visible(text) == shown


def test_the_figure_is_a_picture(small_run, tmp_path):
    image = Image.open(io.BytesIO(reconstruction_figure(small_run, count=4)))
    assert image.format == "PNG"
    assert image.width > image.height > 100


def test_a_figure_of_other_shards_is_refused(run):
    (run / "data.json").write_text("{}")
    with pytest.raises(DataError, match="not the shards"):
        reconstruction_figure(run)


def test_large_pictures_are_shown_smaller_and_small_ones_exactly():
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    data, kind = encode_picture(noise)
    assert (kind, max(Image.open(io.BytesIO(data)).size)) == ("jpeg", LARGEST_SIDE)
    assert len(encode_picture(noise[:LARGEST_SIDE, :LARGEST_SIDE])[0]) < 80_000  # 24 of the worst are within 3 MB
    data, kind = encode_picture(noise[:48, :48])
    assert kind == "png"
    assert (np.asarray(Image.open(io.BytesIO(data))) == noise[:48, :48]).all()


def test_long_curves_are_thinned_by_means():
    curve = thinned(Curve(np.arange(4000.0), np.arange(4000.0) * 2))
    assert len(curve.steps) == POINTS
    assert (curve.values[0], curve.values[-1]) == (9.0, 7989.0)
    assert np.allclose(running_mean(np.array([1.0, np.nan, 3.0]), 3), [1.0, 2.0, 3.0])


def test_a_long_chart_stays_small_and_takes_the_pages_colours():
    steps = np.arange(100_000.0)
    drawn = line_chart({"": Curve(steps, np.exp(-steps / 1e4) + 1e-6)}, name="loss", smooth=True)
    assert len(drawn) < 60_000
    assert "var(--series-1)" in drawn
    assert "xmlns" not in drawn
