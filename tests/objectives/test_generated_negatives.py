"""ViLTA's wrong captions: words of the model's own, in slots of their own, and what the matching loss makes of them."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from mmpt.config import component
from mmpt.errors import ConfigError
from mmpt.model import MaskedModel
from mmpt.objectives import Objective
from mmpt.objectives.pairs import mean_of
from mmpt.tokens import Content

DECODER = {"type": "decoder", "width": 16, "depth": 1, "heads": 2}
STREAMS = {
    "ecg": {"masking": {"ratio": 0.5}, "corruption": "drop", "predictor": DECODER, "target": "signal"},
    "text": {"masking": {"ratio": 0.3}, "corruption": "replace", "predictor": "tied", "target": "token_ids"},
}


@pytest.fixture
def model_of(modalities, backbone_of, randomised):
    """`model_of({"ratio": 0.3})`: ECG and text with one matching loss."""

    def make(generated=(), streams=STREAMS):
        chosen = {name: modalities[name] for name in ("ecg", "text")}
        own = None if generated is None else {"stream": "text", **dict(generated)}
        pairs = {"match": {"type": "matching", "streams": ["ecg", "text"], "generated": own}}
        backbone = backbone_of(chosen)
        objective = component(Objective, "masked_prediction", streams=streams, pairs=pairs)
        return randomised(MaskedModel(backbone, objective.build(backbone, chosen))).eval()

    return make


@pytest.fixture
def batch(contents, batch_of):
    """Four rows: the second is no true pair, and of the third there is nothing."""
    streams = {name: Content(*(t[:4] for t in contents(name)[:5])) for name in ("ecg", "text")}
    return batch_of(**streams)._replace(matched=torch.tensor([True, False, True, True]))


def filled(model, batch, hidden):
    generator, part = model.objective.generators["match"], model.objective.part("text")
    return generator.filled(model.backbone, part, batch, hidden["text"], hidden["match"].hidden, 0.5)


@pytest.mark.parametrize("choice", ["sample", "best"])
def test_a_wrong_caption_differs_in_every_slot_and_nowhere_else(model_of, batch, choice):
    model = model_of({"choice": choice, "ratio": 0.4})
    hidden, true = model.hide(batch, 0.5), batch.streams["text"]
    slots = hidden["match"].hidden
    wrong = filled(model, batch, hidden)
    assert torch.equal(wrong.values != true.values, slots)
    rows = (true.valid & true.observed).any(1)
    assert torch.equal(slots.any(1), rows)
    assert not (slots & (hidden["text"].hidden | ~true.observed | ~true.valid)).any()
    assert not any((wrong.values[slots] == number).any() for number in range(5))  # <s>, <pad>, ...
    assert torch.equal(filled(model, batch, hidden).values, wrong.values)


def test_words_are_those_that_the_encoder_expects_without_a_look_at_the_slots_or_the_ecg(model_of, batch):
    model = model_of({"choice": "best"})
    hidden, text = model.hide(batch, 0.5), batch.streams["text"]
    slots, wrong = hidden["match"].hidden, filled(model, batch, hidden)
    ecg = batch.streams["ecg"]
    changed = batch._replace(streams={"text": text, "ecg": ecg._replace(values=ecg.values + 1)})
    assert torch.equal(filled(model, changed, hidden).values, wrong.values)
    # with the words of the slots changed, what is expected there is the same; only the true word is out of it
    values = torch.where(slots, wrong.values, text.values)
    again = filled(model, batch._replace(streams={**batch.streams, "text": text._replace(values=values)}), hidden)
    assert (again.values != wrong.values)[slots].all()
    shown = batch._replace(streams={"text": text})
    both = hidden["text"]._replace(hidden=hidden["text"].hidden | slots, scored=slots, hidden_count=None)
    seen = model.objective.predict(model.backbone, shown, {"text": both})["text"]
    allowed = seen.prediction.clone()
    allowed[:, :5] = -torch.inf
    allowed[torch.arange(len(allowed)), text.values[seen.row, seen.places]] = -torch.inf
    assert torch.equal(allowed.argmax(1), wrong.values[seen.row, seen.places])


def test_samples_follow_the_expectation_and_differ_from_draw_to_draw(model_of, batch):
    model = model_of({"ratio": 0.5})
    hidden = model.hide(batch, 0.5)
    slots = hidden["match"].hidden
    wrong = filled(model, batch, hidden).values[slots]
    other = filled(model, batch._replace(draw=batch.draw + 1), hidden).values[slots]
    assert not torch.equal(wrong, other)


def test_no_gradient_goes_through_the_choice_and_all_weights_have_one(model_of, batch):
    model = model_of().train()
    hidden = model.hide(batch, 0.5)
    assert not filled(model, batch, hidden).values.requires_grad
    step = model(batch, hidden, 0.5)
    step.losses["match"].total.backward()
    head = model.objective.part("text").predictor
    assert head.bias.grad is None  # what fills the slots learns nothing from the pairs
    model.zero_grad()
    step = model(batch, hidden, 0.5)
    torch.stack([loss.total for loss in step.losses.values()]).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_true_pairs_are_counted_once_more_as_false_ones(model_of, batch):
    model, plain = model_of(), model_of(None)
    hidden, without = model.hide(batch, 0.5), plain.hide(batch, 0.5)
    assert without["match"].scored.squeeze(1).tolist() == [True, True, False, True]
    assert float(without["match"].denominator) == 3
    assert float(hidden["match"].denominator) == 5
    step, wanted = model(batch, hidden, 0.5), plain(batch, without, 0.5)
    wrong = batch._replace(streams={**batch.streams, "text": filled(model, batch, hidden)})
    seen = model.objective._latents(model.backbone, wrong, hidden, 0.5).latents
    pooled = [mean_of(seen[name].own, seen[name].shown.tokens.valid) for name in ("ecg", "text")]
    logits = model.objective.paired["match"].head(torch.cat(pooled, 1))
    each = cross_entropy(logits, torch.zeros(4, dtype=torch.int64), reduction="none")[[0, 3]]
    assert_close(step.losses["match"].total, wanted.losses["match"].total + each.sum(), rtol=1e-5, atol=1e-5)
    assert_close(step.losses["match"].rows[[0, 3]] - wanted.losses["match"].rows[[0, 3]], each, rtol=1e-4, atol=1e-5)
    assert_close(step.losses["text"].total, wanted.losses["text"].total)
    assert float(step.metrics["match/generated_accuracy"][1]) == 2


def test_a_row_is_filled_alike_alone_and_in_a_batch(model_of, batch):
    model = model_of({"ratio": 0.4})
    hidden = model.hide(batch, 0.5)
    wrong = filled(model, batch, hidden)
    for row in (0, 1, 3):
        own = slice(row, row + 1)
        streams = {name: Content(*(t[own] for t in content[:5])) for name, content in batch.streams.items()}
        alone = batch._replace(streams=streams, uid=batch.uid[own], draw=batch.draw[own], matched=batch.matched[own])
        assert torch.equal(filled(model, alone, model.hide(alone, 0.5)).values[0], wrong.values[row])


@pytest.mark.parametrize(
    ("generated", "streams", "sentence"),
    [
        ({"stream": "image"}, {}, "generated.stream: expected ecg or text, got 'image'"),
        ({"stream": "ecg"}, {}, "generated.stream: words are filled in text alone, and 'ecg' is none"),
        (
            {},
            {"text": {**STREAMS["text"], "predictor": "mlp", "target": {"type": "teacher_latents", "layers": 1}}},
            r"pairs\.match\.generated\.stream: 'text' predicts no words",
        ),
        ({"ratio": 1.0}, {}, "ratio: expected a share between 0 and 1, got 1"),
    ],
)
def test_settings_that_can_not_be_are_refused(model_of, generated, streams, sentence):
    with pytest.raises(ConfigError, match=sentence):
        model_of(generated, {**STREAMS, **streams})
