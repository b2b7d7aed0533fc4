"""One step: what a stream may know of itself and of others, what a loss is a sum of, and what is absent."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from mmpt.config import component
from mmpt.errors import ConfigError
from mmpt.model import MaskedModel
from mmpt.objectives import Objective
from mmpt.tokens import Batch, Content

DECODER = {"type": "decoder", "width": 16, "depth": 1, "heads": 2}
CROSS = {**DECODER, "type": "cross_decoder"}
IMAGE = {"masking": {"ratio": 0.75}, "corruption": "drop", "predictor": DECODER, "target": "pixels"}
TEXT = {
    "masking": {"ratio": 0.3, "unit": "word"},
    "corruption": {"type": "replace", "keep": 0.2, "random": 0.2},
    "predictor": "tied",
    "target": "token_ids",
}


@pytest.fixture
def model_of(modalities, backbone_of, randomised):
    """`model_of(text={...}, image={...})`: the settings above, changed."""

    def make(backbone=None, **changes):
        streams = {name: {"text": TEXT, "image": IMAGE}[name] | changed for name, changed in changes.items()}
        chosen = {name: modalities[name] for name in streams}
        backbone = backbone_of(chosen, **(backbone or {}))
        objective = component(Objective, "masked_prediction", streams=streams).build(backbone, chosen)
        return randomised(MaskedModel(backbone, objective)).eval()

    return make


def step_of(model, batch, hidden=None, progress=0.5):
    return model(batch, hidden or model.hide(batch, progress), progress)


def rows_of(batch, rows):
    """Some of the rows, with their draws."""
    streams = {name: Content(*(t[rows] for t in content[:5])) for name, content in batch.streams.items()}
    return Batch(streams, batch.uid[rows], batch.draw[rows], batch.source, batch.position)


def with_values(batch, stream, values):
    return batch._replace(streams={**batch.streams, stream: batch.streams[stream]._replace(values=values)})


@pytest.fixture
def joint(contents, batch_of):
    """Five rows of both streams; row 2 is absent from both, 0 has no text, 1 no picture."""
    text, image = (Content(*(t[:5].clone() for t in contents(name)[:5])) for name in ("text", "image"))
    for content, row in ((text, 0), (image, 1)):
        content.valid[row] = content.observed[row] = False
    return batch_of(text=text, image=image)


# ---- absent streams and padding


@pytest.mark.parametrize("average", ["scored", "valid", "sample"])
@pytest.mark.parametrize("predictor", [DECODER, CROSS])
def test_rows_of_padding_change_neither_sums_nor_denominators(model_of, joint, average, predictor):
    model = model_of(text={"average": average}, image={"average": average, "predictor": predictor})
    without = rows_of(joint, torch.tensor([0, 1, 3, 4]))
    for name in ("text", "image"):
        with_padding, alone = step_of(model, joint), step_of(model, without)
        assert_close(with_padding.losses[name].total, alone.losses[name].total, rtol=1e-6, atol=1e-6)
        assert with_padding.losses[name].rows[2] == 0
        denominators = [model.hide(batch, 0.5)[name].denominator for batch in (joint, without)]
        assert denominators[0] == denominators[1] > 0
        assert [float(n) for n in with_padding.metrics[f"{name}/loss"]] == pytest.approx(
            [float(n) for n in alone.metrics[f"{name}/loss"]]
        )


@pytest.mark.parametrize("predictor", [DECODER, CROSS])
def test_a_row_has_the_same_loss_alone_and_in_a_batch(model_of, joint, predictor):
    model = model_of(text={}, image={"predictor": predictor})
    together = step_of(model, joint)
    for row in range(5):
        alone = step_of(model, rows_of(joint, torch.tensor([row])))
        for name in ("text", "image"):
            assert_close(alone.losses[name].rows[0], together.losses[name].rows[row], rtol=1e-5, atol=1e-5)


def test_a_batch_without_anything_has_a_loss_of_zero_and_finite_gradients(model_of, joint):
    model = model_of(text={}, image={})
    step = step_of(model, rows_of(joint, torch.tensor([2])))
    total = sum(loss.total for loss in step.losses.values())
    assert total == 0
    total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(("present", "absent"), [("text", "image"), ("image", "text")])
@pytest.mark.parametrize("text_positions", ["replace", "drop"])
def test_weights_of_an_absent_stream_get_gradients_of_zero(model_of, joint, present, absent, text_positions):
    other = {"corruption": "drop", "predictor": CROSS} if text_positions == "drop" else {}
    model = model_of(text=other, image={}).train()
    batch = joint._replace(streams={present: joint.streams[present]})
    step = step_of(model, batch)
    assert set(step.losses) == {present}
    (step.losses[present].total + step.balance).backward()
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert missing == []
    for part in (model.backbone.encoders[absent], model.objective.streams[absent]):
        assert all((p.grad == 0).all() for p in part.parameters())
    own = model.backbone.encoders[present]
    assert all(p.grad.abs().sum() > 0 for p in own.parameters())


def test_an_absent_stream_changes_no_loss(model_of, joint):
    model = model_of(text={}, image={})
    rows = torch.tensor([0, 3])
    picture = rows_of(joint, rows).streams["image"]
    only = Batch({"image": picture}, joint.uid[rows], joint.draw[rows], "tests", 0)
    gone = rows_of(joint, rows).streams["text"]
    gone = gone._replace(valid=torch.zeros_like(gone.valid), observed=torch.zeros_like(gone.observed))
    both = only._replace(streams={"text": gone, "image": picture})
    assert_close(step_of(model, only).losses["image"].total, step_of(model, both).losses["image"].total)


# ---- who sees what


@pytest.mark.parametrize("predictor", [DECODER, CROSS])
def test_each_side_is_predicted_from_the_visible_part_of_the_other(model_of, joint, predictor):
    model = model_of(text={}, image={"predictor": predictor})
    hidden = model.hide(joint, 0.5)
    for changed, other in (("text", "image"), ("image", "text")):
        content = joint.streams[changed]
        seen = content.observed & ~hidden[changed].hidden
        seen = seen.view(*seen.shape, *(1,) * (content.values.dim() - 2))
        different = with_values(joint, changed, torch.where(seen, content.values // 2, content.values))
        before = model.objective.predict(model.backbone, joint, hidden)[other]
        after = model.objective.predict(model.backbone, different, hidden)[other]
        change = (before.prediction - after.prediction).abs().amax(1)
        assert (change[before.row >= 3] > 1e-5).all()  # both are there
        assert (change[before.row < 2] < 1e-6).all()  # the other side is absent


@pytest.mark.parametrize("corruption", ["drop", "replace"])
def test_hidden_content_reaches_no_latent_and_no_prediction(model_of, joint, corruption):
    model = model_of(text={"corruption": "replace"}, image={"corruption": corruption})
    hidden = model.hide(joint, 0.5)
    different = joint
    for name, content in joint.streams.items():
        where = hidden[name].hidden.view(*content.valid.shape, *(1,) * (content.values.dim() - 2))
        different = with_values(different, name, torch.where(where, content.values.roll(3, 1) // 2, content.values))
    for name in joint.streams:
        before, after = (model.objective.predict(model.backbone, b, hidden)[name] for b in (joint, different))
        assert torch.equal(before.prediction, after.prediction)
        losses = [step_of(model, b, hidden).losses[name].total for b in (joint, different)]
        assert losses[0] != losses[1]  # but they are what is scored


def test_altering_hidden_pixels_leaves_the_latents_of_the_encoder_alone(model_of, full_contents, batch_of):
    model, batch = model_of(image={}), batch_of(image=full_contents("image"))
    hidden, values = model.hide(batch, 0.5), batch.streams["image"].values
    where = hidden["image"].hidden.unsqueeze(2)
    different = with_values(batch, "image", torch.where(where, 255 - values, values))
    before, after = (model.objective._latents(model.backbone, b, hidden, 0.5)[0]["image"] for b in (batch, different))
    assert before.own.shape[1] == 1 + 16  # three quarters of the work is not done
    assert torch.equal(before.own, after.own)


@pytest.mark.parametrize("predictor", ["tied", DECODER, CROSS])
def test_packed_documents_do_not_know_of_each_other(model_of, text, documents, batch_of, predictor):
    model = model_of(text={"corruption": "replace" if predictor == "tied" else "drop", "predictor": predictor})
    first, second, third, *_ = documents("text")
    packed, other = (batch_of(text=text.collate([[first, one]], 80)) for one in (second, third[: len(second)]))
    hidden = model.hide(packed, 0.5)
    size = len(first)
    before, after = (model.objective.predict(model.backbone, b, hidden)["text"] for b in (packed, other))
    mine = before.places < size
    assert mine.any()
    assert_close(before.prediction[mine], after.prediction[mine], rtol=0, atol=1e-6)
    assert (before.prediction[~mine] != after.prediction[~mine]).any(1).all()


@pytest.mark.parametrize("predictor", ["tied", DECODER, CROSS])
def test_padding_behind_a_document_changes_no_prediction(model_of, text, documents, batch_of, predictor):
    model = model_of(text={"corruption": "replace" if predictor == "tied" else "drop", "predictor": predictor})
    rows = [[document[:-1]] for document in documents("text")]
    rows.append([np.array([0, 2])])  # nothing to predict here
    snug, wide = (batch_of(text=text.collate(rows, size)) for size in (None, 96))
    before, after = (model.objective.predict(model.backbone, b, model.hide(b, 0.5))["text"] for b in (snug, wide))
    assert torch.equal(before.places, after.places)
    assert_close(before.prediction, after.prediction, rtol=0, atol=1e-5)
    assert before.prediction.isfinite().all()
    alone = [batch_of(text=text.collate([row], len(row[0]))) for row in rows]
    for row, batch in enumerate(alone):
        batch = batch._replace(draw=snug.draw[row : row + 1])
        predicted = model.objective.predict(model.backbone, batch, model.hide(batch, 0.5))["text"]
        assert_close(predicted.prediction, before.prediction[before.row == row], rtol=0, atol=1e-5)


def test_predictions_say_where_they_belong(model_of, joint):
    model = model_of(text={}, image={})
    hidden = model.hide(joint, 0.5)
    for name, predicted in model.objective.predict(model.backbone, joint, hidden).items():
        where = torch.zeros_like(hidden[name].hidden)
        where[predicted.row, predicted.places] = True
        assert torch.equal(where, hidden[name].hidden)
        assert len(predicted.prediction) == len(predicted.row) == int(where.sum())


def test_a_fixed_count_gives_the_loss_that_looking_gives(model_of, full_contents, batch_of):
    model = model_of(image={})
    batch = batch_of(image=full_contents("image"))
    looking = rows_of(batch, torch.arange(8))  # the same rows, but they don't say that they are full
    hidden, looked = model.hide(batch, 0.5), model.hide(looking, 0.5)
    assert hidden["image"].hidden_count == 48
    assert looked["image"].hidden_count is None
    totals = [step_of(model, b, h).losses["image"].total for b, h in ((batch, hidden), (looking, looked))]
    assert_close(*totals, rtol=1e-5, atol=1e-5)


# ---- what a loss is


@pytest.mark.parametrize("average", ["scored", "valid", "sample"])
def test_the_loss_is_the_average_that_is_set(model_of, joint, average):
    model = model_of(text={"average": average}, image={"average": average})
    hidden = model.hide(joint, 0.5)
    step = step_of(model, joint, hidden)
    predictions = model.objective.predict(model.backbone, joint, hidden)
    for name, predicted in predictions.items():
        content, part = joint.streams[name], model.objective.streams[name]
        target = part.target(model_context(joint, name))[predicted.row, predicted.places]
        each = part.target.loss(predicted.prediction, target)
        by_row = [each[predicted.row == row] for row in range(5)]
        expected = {
            "scored": each.mean(),
            "valid": each.sum() / content.valid.sum(),
            "sample": torch.stack([losses.mean() for losses in by_row if len(losses)]).mean(),
        }[average]
        assert_close(step.losses[name].total / hidden[name].denominator, expected, rtol=1e-5, atol=1e-5)
        rows = torch.stack([losses.sum() for losses in by_row])
        assert_close(step.losses[name].rows, rows, rtol=1e-5, atol=1e-5)
        total, count = step.metrics[f"{name}/loss"]
        assert_close(total / count, each.mean(), rtol=1e-5, atol=1e-5)


def model_context(batch, name):
    from mmpt.objectives.context import context_of

    return context_of(batch, name, 0.5)


@pytest.mark.parametrize("average", ["scored", "valid", "sample"])
def test_micro_batches_add_up_to_the_batch(model_of, joint, average):
    model = model_of(text={"average": average}, image={"average": average})
    parts = [rows_of(joint, rows) for rows in (torch.tensor([0, 1]), torch.tensor([2]), torch.tensor([3, 4]))]
    for name in ("text", "image"):
        whole, wanted = step_of(model, joint).losses[name].total, model.hide(joint, 0.5)[name].denominator
        assert_close(sum(step_of(model, part).losses[name].total for part in parts), whole, rtol=1e-5, atol=1e-5)
        assert sum(model.hide(part, 0.5)[name].denominator for part in parts) == wanted


def test_weights_are_those_of_the_recipe(model_of):
    assert model_of(text={"weight": 0.25}, image={}).objective.weights() == {"text": 0.25, "image": 1.0}


def test_streams_of_one_sample_hide_by_draws_of_their_own(model_of, full_contents, batch_of):
    streams = {"masking": {"ratio": 0.5}, "corruption": "replace"}
    content = full_contents("image")
    model = model_of(image=streams)
    hidden = model.hide(batch_of(image=content), 0.5)["image"].hidden
    again = model.hide(batch_of(image=content, seed=1), 0.5)["image"].hidden
    assert not torch.equal(hidden, again)


# ---- what can't be


def test_dropping_what_a_head_has_to_predict_is_refused(model_of):
    for predictor in ("mlp", "tied"):
        with pytest.raises(
            ConfigError, match=f"'drop' leaves hidden tokens out of the trunk, and predictor '{predictor}'"
        ):
            model_of(text={"corruption": "drop", "predictor": predictor})
    model_of(text={"corruption": "drop", "predictor": CROSS})


def test_terms_of_the_loss_that_have_no_meaning_are_refused(model_of):
    with pytest.raises(ConfigError, match=r"objective\.streams\.text\.shown_weight: with corruption 'drop'"):
        model_of(text={"corruption": "drop", "predictor": CROSS, "shown_weight": 0.5})
    with pytest.raises(
        ConfigError, match=r"objective\.streams\.text\.feature_penalty: this encoder has no convolutions"
    ):
        model_of(text={"feature_penalty": 10.0})


def test_a_stream_without_settings_and_settings_without_a_stream_are_refused(modalities, backbone_of):
    def build(streams, names):
        chosen = {name: modalities[name] for name in names}
        return component(Objective, "masked_prediction", streams=streams).build(backbone_of(chosen), chosen)

    with pytest.raises(ConfigError, match="stream 'image' of the recipe has no entry; add one"):
        build({"text": TEXT}, ["text", "image"])
    with pytest.raises(ConfigError, match=r"objective\.streams\.image: no such stream; the recipe has text"):
        build({"text": TEXT, "image": IMAGE}, ["text"])


def test_a_part_for_another_modality_is_refused(model_of):
    with pytest.raises(ConfigError, match="target 'pixels' has a meaning for images and video only"):
        model_of(text={"target": "pixels"})
    with pytest.raises(ConfigError, match="predictor 'tied' needs an embedding table"):
        model_of(image={"corruption": "replace", "predictor": "tied"})
