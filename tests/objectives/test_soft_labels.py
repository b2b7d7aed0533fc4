"""ViLTA's soft labels: what a frozen run expects of hidden words, mixed with the words themselves."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from torch.testing import assert_close

from mmpt.config import component
from mmpt.encoders import Facts
from mmpt.errors import ConfigError
from mmpt.model import MaskedModel
from mmpt.objectives import Objective
from mmpt.objectives.several_masks import repeated
from mmpt.objectives.soft_labels import divergence
from mmpt.tokens import Content
from tests.conftest import CLUSTERS

DECODER = {"type": "decoder", "width": 16, "depth": 1, "heads": 2}
IMAGE = {"masking": {"ratio": 0.5}, "corruption": "drop", "predictor": DECODER, "target": "pixels"}
TEXT = {"masking": {"ratio": 0.4}, "corruption": "replace", "predictor": "tied", "target": "token_ids"}
UNITS = {"masking": {"ratio": 0.4}, "corruption": "replace", "predictor": {"type": "mlp"}, "target": "units"}
RUN = Path("runs/language")


def soft(share=0.5, **changed):
    return {**TEXT, "soft_labels": {"type": "frozen_run", "run": RUN, "share": share}, **changed}


@pytest.fixture
def model_of(modalities, backbone_of, randomised):
    """`model_of(text=stream)`: random weights, the same for the same seed."""

    def make(seed=0, masks_per_sample=1, others=None, **streams):
        chosen = {name: (others or modalities)[name] for name in streams}
        backbone = backbone_of(chosen, seed)
        settings = {"streams": streams, "masks_per_sample": masks_per_sample}
        model = MaskedModel(backbone, component(Objective, "masked_prediction", **settings).build(backbone, chosen))
        return randomised(model, seed + 1).eval()

    return make


@pytest.fixture
def held(modalities, model_of):
    """`held(model, teacher)`: the model with this teacher of its text."""

    def make(model, teacher=None, name="text"):
        teacher = teacher or model_of(seed=5, text=TEXT)
        own = {stream: modalities[stream] for stream in teacher.backbone.numbers}
        model.objective.part(name).soft_labels.hold(own, teacher, "fingerprint")
        return model

    return make


def trained_on(model, batch):
    """Losses and gradients of a step."""
    step = model(batch, model.hide(batch, 0.5), 0.5)
    model.zero_grad()
    torch.stack([loss.total for loss in step.losses.values()]).sum().backward()
    return step, {name: p.grad for name, p in model.named_parameters()}


def logits_of(model, name, batch, hidden):
    with torch.no_grad():
        return model.objective.predict(model.backbone, batch, hidden)[name]


# ---- the loss


def test_share_0_is_cross_entropy_bit_for_bit(model_of, held, contents, batch_of):
    batch = batch_of(text=contents("text"))
    plain, gradients = trained_on(model_of(text=TEXT).train(), batch)
    mixed, others = trained_on(held(model_of(text=soft(0.0))).train(), batch)
    assert torch.equal(plain.losses["text"].total, mixed.losses["text"].total)
    assert torch.equal(plain.losses["text"].rows, mixed.losses["text"].rows)
    assert gradients.keys() == others.keys()
    assert all(torch.equal(gradients[name], others[name]) for name in gradients)


def test_the_divergence_is_torchs_and_0_where_both_agree():
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(6, 9, generator=generator) for _ in range(2))
    wanted = kl_div(log_softmax(other, 1), log_softmax(one, 1), reduction="none", log_target=True).sum(1)
    assert_close(divergence(log_softmax(one, 1), other), wanted)
    assert (divergence(log_softmax(one, 1), one + 3.0).abs() < 1e-6).all()
    assert (wanted > 0.1).all()


def test_a_model_that_is_its_own_teacher_has_nothing_to_learn_from_it(model_of, held, contents, batch_of):
    model = model_of(text=soft(1.0))
    held(model, deepcopy(model))
    step, gradients = trained_on(model.train(), batch_of(text=contents("text")))
    assert step.losses["text"].total.abs() < 1e-4
    assert max(float(own.abs().max()) for own in gradients.values()) < 1e-4


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_the_loss_is_both_terms_of_the_teachers_own_predictions(model_of, held, contents, batch_of, share):
    teacher, batch = model_of(seed=5, text=TEXT), batch_of(text=contents("text"))
    model = held(model_of(text=soft(share)), teacher)
    hidden = model.hide(batch, 0.5)
    own, theirs = (logits_of(m, "text", batch, hidden) for m in (model, teacher))
    true = batch.streams["text"].values[own.row, own.places]
    hard = cross_entropy(own.prediction, true, reduction="sum")
    apart = kl_div(log_softmax(own.prediction, 1), theirs.prediction.softmax(1), reduction="sum")
    step = model(batch, hidden, 0.5)
    assert_close(step.losses["text"].total, (1 - share) * hard + share * apart, rtol=1e-4, atol=1e-4)
    assert_close(step.metrics["text/loss"][0], hard, rtol=1e-5, atol=1e-4)
    assert_close(step.metrics["text/soft_divergence"][0], apart, rtol=1e-4, atol=1e-4)


def test_a_target_without_soft_labels_says_nothing_of_them(model_of, contents, batch_of):
    model, batch = model_of(text=TEXT), batch_of(text=contents("text"))
    assert "text/soft_divergence" not in model(batch, model.hide(batch, 0.5), 0.5).metrics


# ---- what the teacher sees


@pytest.mark.parametrize("corruption", ["replace", "drop"])
def test_the_teacher_sees_neither_hidden_words_nor_pictures(model_of, held, full_contents, batch_of, corruption):
    seen = {**TEXT, "corruption": corruption, "predictor": DECODER}
    teacher = model_of(seed=5, text=seen, image=IMAGE)
    model = held(model_of(text=soft(), image=IMAGE), teacher)
    text, image = full_contents("text"), full_contents("image")
    rows = slice(min(len(text.valid), len(image.valid)))
    text, image = (Content(*(t[rows] for t in own[:5]), full=own.full) for own in (text, image))
    batch = batch_of(text=text, image=image)
    hidden = model.hide(batch, 0.5)
    labels = model.objective.part("text").soft_labels
    before = labels(batch, hidden["text"], 0.5)
    assert_close(before.exp().sum(1), torch.ones(len(before)))
    assert len(before) == int(hidden["text"].hidden.sum())
    other = torch.where(hidden["text"].hidden, 7, text.values)
    changed = batch_of(text=text._replace(values=other), image=image._replace(values=255 - image.values))
    assert torch.equal(before, labels(changed, hidden["text"], 0.5))
    shown = torch.where(hidden["text"].hidden | ~text.observed, text.values, 7)
    assert not torch.equal(before, labels(batch_of(text=text._replace(values=shown), image=image), hidden["text"], 0.5))


def test_what_stays_in_place_of_a_hidden_word_stays_for_both(model_of, held, full_contents, batch_of):
    kept = {**TEXT, "corruption": {"type": "replace", "keep": 0.5, "random": 0.3}}
    model = model_of(text={**soft(1.0), "corruption": kept["corruption"]})
    held(model, deepcopy(model))
    batch = batch_of(text=full_contents("text"))
    assert model(batch, model.hide(batch, 0.5), 0.5).losses["text"].total.abs() < 1e-4


def test_the_teacher_has_no_gradient_and_no_place_among_the_weights(model_of, held, contents, batch_of):
    teacher = model_of(seed=5, text=TEXT)
    model = held(model_of(text=soft()), teacher).train()
    _, gradients = trained_on(model, batch_of(text=contents("text")))
    assert not teacher.training
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert all(own is not None for own in gradients.values())
    assert model.state_dict().keys() == model_of(text=TEXT).state_dict().keys()


def test_several_masks_have_soft_labels_of_their_own(model_of, held, contents, batch_of):
    several = held(model_of(text=soft(), masks_per_sample=2))
    single, batch = held(model_of(text=soft())), batch_of(text=contents("text"))
    many = repeated(batch, 2)
    wanted = single(many, single.hide(many, 0.5), 0.5).losses["text"].total
    assert_close(several(batch, several.hide(batch, 0.5), 0.5).losses["text"].total, wanted, rtol=1e-5, atol=1e-4)


def test_a_row_with_padding_has_the_loss_that_it_has_alone(model_of, held, contents, batch_of):
    model, content = held(model_of(text=soft())), contents("text")
    batch = batch_of(text=content)
    rows = model(batch, model.hide(batch, 0.5), 0.5).losses["text"].rows
    for row in (0, 3, 5):
        own = slice(row, row + 1)
        streams = {"text": Content(*(t[own] for t in content[:5]))}
        alone = batch._replace(streams=streams, uid=batch.uid[own], draw=batch.draw[own])
        assert_close(model(alone, model.hide(alone, 0.5), 0.5).losses["text"].rows[0], rows[row], rtol=1e-4, atol=1e-4)


# ---- units


def test_a_run_of_units_may_teach_units(model_of, held, contents, batch_of):
    labels = {"type": "frozen_run", "run": RUN}
    model = model_of(speech_mel={**UNITS, "soft_labels": labels})
    held(model, model_of(seed=5, speech_mel=UNITS), "speech_mel")
    batch = batch_of(speech_mel=contents("speech_mel"))
    step = model(batch, model.hide(batch, 0.5), 0.5)
    assert step.metrics["speech_mel/soft_divergence"][0] > 0
    assert step.losses["speech_mel"].total.isfinite()


@pytest.fixture
def codebook(tmp_path):
    """Centroids on a line at 0, 1, 2, ..."""
    file, facts = tmp_path / "line.safetensors", '{"codebook": "0"}'
    save_file({"centroids": torch.arange(float(CLUSTERS)).unsqueeze(1)}, file, metadata={"codebook": facts})
    return file


def test_units_near_the_true_one_get_a_share_that_falls_with_their_distance(model_of, contents, batch_of, codebook):
    labels = {"type": "neighbours", "codebook": codebook, "temperature": 2.0}
    model = model_of(speech_mel={**UNITS, "soft_labels": labels})
    batch = batch_of(speech_mel=contents("speech_mel"))
    hidden = model.hide(batch, 0.5)
    own = model.objective.part("speech_mel").soft_labels(batch, hidden["speech_mel"], 0.5)
    seen = logits_of(model, "speech_mel", batch, hidden)
    units = batch.streams["speech_mel"].units[seen.row, seen.places, 0]
    apart = (torch.arange(float(CLUSTERS)) - units.unsqueeze(1)).square()
    assert_close(own, log_softmax(-apart / 2.0, 1), rtol=1e-5, atol=1e-5)
    assert model.state_dict().keys() == model_of(speech_mel=UNITS).state_dict().keys()
    assert model(batch, hidden, 0.5).losses["speech_mel"].total.isfinite()


def test_a_cold_neighbourhood_is_cross_entropy(model_of, contents, batch_of, codebook):
    batch = batch_of(speech_mel=contents("speech_mel"))
    labels = {"type": "neighbours", "codebook": codebook, "temperature": 0.01, "share": 0.7}
    cold, plain = (model_of(speech_mel={**UNITS, "soft_labels": own}) for own in (labels, None))
    wanted, own = (model(batch, model.hide(batch, 0.5), 0.5).losses["speech_mel"].total for model in (plain, cold))
    assert_close(own, wanted, rtol=1e-5, atol=1e-4)


# ---- what is refused


def test_a_run_with_other_classes_is_refused(model_of, modalities):
    model, teacher = model_of(text=soft()), model_of(seed=5, text=TEXT)
    text = modalities["text"]
    facts = Facts(text.facts.folder, {**text.facts.values, "sha256": "other"}, text.facts.statistics)
    labels = model.objective.part("text").soft_labels
    for others, sentence in (
        ({"text": replace(text, facts=facts)}, "its stream 'text' has another tokenizer"),
        ({"text": replace(text, max_length=32)}, "does not cut samples into the same tokens, or into fewer"),
        ({"image": modalities["image"]}, "expected a run that predicts the classes of stream 'text'"),
    ):
        with pytest.raises(ConfigError, match=f"runs/language: .*{sentence}"):
            labels.hold(others, teacher, "")
    labels.hold({"text": replace(text, max_length=128)}, teacher, "")


def test_a_run_with_other_units_is_refused(model_of, modalities):
    labels = {"type": "frozen_run", "run": RUN}
    model = model_of(speech_mel={**UNITS, "soft_labels": labels})
    own, teacher = modalities["speech_mel"], model_of(seed=5, speech_mel=UNITS)
    units = [{**own.facts.values["units"][0], "codebook": "other"}]
    facts = replace(own.facts, values={**own.facts.values, "units": units})
    for other, sentence in (
        (replace(own, facts=facts), "another codebook"),
        (replace(own, mels=own.mels + 1), "same tokens"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            model.objective.part("speech_mel").soft_labels.hold({"speech_mel": other}, teacher, "")


@pytest.mark.parametrize(
    ("name", "stream", "sentence"),
    [
        ("image", IMAGE, r"streams\.image\.soft_labels: they are of one set of classes, and target 'pixels'"),
        ("text", TEXT, "share: expected a number from 0 to 1, got 1.5"),
    ],
)
def test_settings_that_can_not_be_are_refused(model_of, name, stream, sentence):
    labels = {"type": "frozen_run", "run": RUN, "share": 1.5}
    with pytest.raises(ConfigError, match=sentence):
        model_of(**{name: {**stream, "soft_labels": labels}})


def test_neighbours_of_another_codebook_or_of_none_are_refused(model_of, codebook, tmp_path):
    other, broken = tmp_path / "other.safetensors", tmp_path / "broken.safetensors"
    save_file({"centroids": torch.ones(3, 1)}, other, metadata={"codebook": '{"codebook": "1"}'})
    broken.write_bytes(b"nothing")
    units = {"speech_mel": UNITS}
    for stream, own, sentence in (
        (units, {"codebook": other}, "is codebook 1, and stream 'speech_mel' has units of 0"),
        (units, {"codebook": broken}, "can't be read as a codebook of 'mmpt units fit'"),
        (units, {"codebook": codebook, "temperature": 0.0}, "temperature: expected a number above 0, got 0"),
        ({"text": TEXT}, {"codebook": codebook}, "'neighbours' needs target 'units'"),
    ):
        ((name, settings),) = stream.items()
        with pytest.raises(ConfigError, match=sentence):
            model_of(**{name: {**settings, "soft_labels": {"type": "neighbours", **own}}})
