"""MaskEmbed: masks and their complements, what the teacher sees and gives, and where the student begins."""

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from mmpt.config import component
from mmpt.encoders import Facts
from mmpt.encoders.labs import Labs
from mmpt.errors import ConfigError
from mmpt.model import MaskedModel
from mmpt.objectives import Objective
from mmpt.objectives.maskembed import MaskEmbed, neutralised
from mmpt.objectives.several_masks import repeated
from mmpt.tokens import Content
from tests.encoders.labs_material import labs_facts

MODALITIES = ("image", "ecg", "ecg_stem", "speech", "speech_mel")
RUN = Path("runs/teacher")


@pytest.fixture
def model_of(modalities, backbone_of, randomised):
    """`model_of("image")`: a student that has left its teacher behind."""

    def make(name, *, trained=True, modality=None, depth=3, **settings):
        chosen = {name: modality or modalities[name]}
        settings = {"run": RUN, "heads": 2, **settings}
        student, teacher = (backbone_of(chosen, seed, depth=depth) for seed in (0, 1))
        models = [
            MaskedModel(own, component(Objective, "maskembed", **settings).build(own, chosen))
            for own in (student, teacher)
        ]
        objective = models[0].objective
        assert isinstance(objective, MaskEmbed)
        objective.teacher.hold(chosen, models[1], "fingerprint")
        if trained:
            randomised(objective.decoder)
        return models[0].eval()

    return make


def other_content(content, places):
    """With other values at these places."""
    values = content.values.clone()
    values[places] = values[places].flip(-1) // 2 + 3
    return content._replace(values=values)


def rows_of(content, rows):
    return Content(*(tensor[rows] for tensor in content[:5]))


# ---- masks


@pytest.mark.parametrize("masks", [1, 2])
def test_a_mask_and_its_complement_hide_all_that_can_be_hidden_and_the_last_view_nothing(
    model_of, contents, batch_of, masks
):
    content = contents("image")
    model, batch = model_of("image", masks=masks), batch_of(image=content)
    hidden = model.hide(batch, 0.5)["image"]
    views = hidden.hidden.view(2 * masks + 1, *content.valid.shape)
    maskable = content.valid & content.observed
    for mask, complement in zip(views[:masks], views[masks:-1], strict=True):
        assert torch.equal(mask | complement, maskable)
        assert not (mask & complement).any()
    assert not views[-1].any()
    assert torch.equal(hidden.scored, content.valid.repeat(2 * masks + 1, 1))
    assert float(hidden.denominator) == (2 * masks + 1) * int(content.valid.sum())
    assert masks == 1 or not torch.equal(views[0], views[1])


# ---- the teacher


def test_a_complete_row_is_what_the_teacher_is_without_masks_but_for_its_last_block(model_of, full_contents, batch_of):
    model, batch = model_of("image", skip_blocks=2), batch_of(image=full_contents("image"))
    backbone = model.objective.teacher.model.backbone
    assert (backbone.trunk.depth, len(backbone.trunk.blocks)) == (1, 1)
    tokens = backbone.embed(batch)["image"]
    x = tokens.x + tokens.position + backbone.trunk.stream_embedding(tokens.stream)
    x, _ = backbone.trunk.blocks[0](x, backbone.trunk.surroundings(tokens, batch.draw))
    nothing = torch.zeros_like(batch.streams["image"].valid)
    assert_close(model.objective.teacher(batch, nothing), backbone.trunk.norm(x), rtol=0, atol=1e-6)
    whole = model.objective.teacher(repeated(batch, 3), model.hide(batch, 0.5)["image"].hidden)
    assert torch.equal(whole[-len(batch.uid) :], model.objective.teacher(batch, nothing))


@pytest.mark.parametrize("name", MODALITIES)
def test_the_teacher_sees_nothing_of_what_is_hidden_and_the_student_all(model_of, full_contents, batch_of, name):
    model, content = model_of(name), full_contents(name)
    batch = batch_of(**{name: content})
    hidden = model.hide(batch, 0.5)[name].hidden[: len(batch.uid)]
    assert hidden.any()
    changed = batch_of(**{name: other_content(content, hidden)})
    before, after = (model.objective.teacher(own, hidden) for own in (batch, changed))
    assert torch.equal(before, after)
    nothing = torch.zeros_like(hidden)
    assert not torch.equal(before, model.objective.teacher(batch, nothing))
    before, after = (model.backbone(own)[name].x for own in (batch, changed))
    assert (before != after)[hidden].any(1).all()


def test_the_neutral_pixel_is_the_mean_colour(image, full_contents, backbone_of):
    encoder, content = backbone_of({"image": image}).encoder("image"), full_contents("image")
    hidden = content.valid & content.observed
    tokens = encoder(neutralised(encoder, content, hidden))
    grey = encoder.projection.bias.expand_as(tokens.x[:, 1:])
    # half a byte off the mean, in each of a patch's numbers
    most = encoder.projection.weight.abs().sum(1) * 0.5 / 255 / 0.2
    assert ((tokens.x[:, 1:] - grey).abs() <= most + 1e-5).all()


def test_the_scale_makes_what_the_teacher_says_vary_by_1(model_of, contents, batch_of):
    model, batch = model_of("image"), batch_of(image=contents("image"))
    teacher, own = model.objective.teacher, model.hide(batch, 0.0)["image"]
    with torch.no_grad():
        teacher.model.backbone.trunk.norm.weight.mul_(7)
    model.objective.measure(batch)
    taught = model.objective.scale * teacher(repeated(batch, 3), own.hidden)[own.scored]
    assert_close(taught.std(correction=0), torch.ones(()), rtol=1e-5, atol=0)
    assert "objective.scale" in model.state_dict()
    latents, every = model.backbone(batch)["image"].x, repeated(batch, 3).streams["image"]
    predicted = model.objective.predicted(latents, every, own.hidden)[own.scored]
    loss = model(batch, {"image": own}, 0.0).losses["image"].total
    assert_close(loss, (predicted - taught).square().mean(1).sum(), rtol=1e-5, atol=0)


# ---- the student


@pytest.mark.parametrize("name", ["image", "speech_mel"])
def test_embeddings_are_0_at_first_and_all_rows_predict_the_same(model_of, full_contents, batch_of, name):
    model, batch = model_of(name, trained=False), batch_of(**{name: full_contents(name)})
    hidden = model.hide(batch, 0.5)[name].hidden
    latents = model.backbone(batch)[name].x
    assert (model.objective.decoder.embed(latents) == 0).all()
    content = repeated(batch, 3).streams[name]
    predicted = model.objective.predicted(latents, content, hidden)
    for row in range(len(content.valid)):
        same = content.place[row] == content.place[0]
        assert_close(predicted[row][same], predicted[0][same])


def test_what_is_taken_away_is_taken_away_behind_the_student(model_of, full_contents, batch_of):
    model, batch = model_of("image"), batch_of(image=full_contents("image"))
    content, hidden = batch.streams["image"], model.hide(batch, 0.5)["image"].hidden
    latents = model.backbone(batch)["image"].x
    first = hidden[: len(batch.uid)]
    changed = torch.where(first.unsqueeze(2), 5.0, latents)
    changed[:, 0] = -5.0  # nor is the class token ever there
    before, after = (
        model.objective.predicted(x, repeated(batch, 3).streams["image"], hidden) for x in (latents, changed)
    )
    rows = len(content.valid)
    assert torch.equal(before[:rows], after[:rows])
    assert not torch.equal(before[rows : 2 * rows], after[rows : 2 * rows])
    kept = model.objective.predicted(latents + 1e-3 * ~first.unsqueeze(2), repeated(batch, 3).streams["image"], hidden)
    assert not torch.equal(before[:rows], kept[:rows])


@pytest.mark.parametrize("name", MODALITIES)
def test_every_weight_has_a_gradient_and_the_teacher_none(model_of, contents, batch_of, name):
    model, batch = model_of(name).train(), batch_of(**{name: contents(name)})
    teacher = model.objective.teacher.model
    assert not teacher.training
    step = model(batch, model.hide(batch, 0.5), 0.5)
    step.losses[name].total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert not any("teacher" in key for key in model.state_dict())
    assert_close(step.losses[name].rows.sum(), step.losses[name].total.detach())


@pytest.mark.parametrize("name", MODALITIES)
def test_a_row_with_padding_has_the_loss_that_it_has_alone(model_of, contents, batch_of, name):
    model, content = model_of(name), contents(name)
    batch = batch_of(**{name: content})
    rows = model(batch, model.hide(batch, 0.5), 0.5).losses[name].rows
    for row in content.valid.any(1).nonzero().flatten().tolist():
        own = slice(row, row + 1)
        alone = batch._replace(streams={name: rows_of(content, own)}, uid=batch.uid[own], draw=batch.draw[own])
        loss = model(alone, model.hide(alone, 0.5), 0.5).losses[name]
        assert_close(loss.rows[0], rows[row], rtol=1e-4, atol=1e-4)
    assert (rows[~content.valid.any(1)] == 0).all()


def test_a_copy_to_another_type_takes_the_teacher_along(model_of):
    model = model_of("image").double()
    assert all(p.dtype == torch.float64 for p in model.objective.teacher.model.parameters())


# ---- what has a meaning


def test_a_table_of_numbers_can_be_hidden_and_one_with_categories_not(model_of, modalities, batch_of, tmp_path):
    facts = labs_facts(tmp_path)
    columns, statistics = (list(part["columns"]) for part in (facts.values, facts.statistics))
    numbers = [n for n, column in enumerate(columns) if column["kind"] == "numeric"]
    kept = ({"columns": [part[n] for n in numbers]} for part in (columns, statistics))
    labs = Labs(Facts(tmp_path, *kept))
    model = model_of("labs", modality=labs)
    cells = labs.read(labs.convert({"sodium": 131.0, "glucose": 200.0, "lactate": 4.0}), 0, 14, None)
    batch = batch_of(labs=labs.collate([[cells]], None))
    assert model(batch, model.hide(batch, 0.5), 0.5).losses["labs"].total.isfinite()
    for name in ("labs", "text"):
        with pytest.raises(ConfigError, match=f"values that say nothing, and stream '{name}' has none"):
            model_of(name)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"skip_blocks": 3}, "skip_blocks: expected 0 to 2, below the depth, got 3"),
        ({"masks": 0}, "masks, depth: expected at least 1, got 0 and 2"),
        ({"heads": 3}, "width 16 can't be shared by 3 heads"),
    ],
)
def test_settings_that_can_not_be_are_refused(model_of, settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        model_of("image", **settings)


def test_a_recipe_of_two_streams_is_refused(modalities, backbone_of):
    both = {name: modalities[name] for name in ("image", "ecg")}
    with pytest.raises(ConfigError, match="'maskembed' is for recipes of one stream, got image, ecg"):
        component(Objective, "maskembed", run=RUN, heads=2).build(backbone_of(both), both)


def test_a_teacher_of_another_stream_is_refused(model_of, modalities):
    objective, other = model_of("image").objective, model_of("ecg")
    with pytest.raises(ConfigError, match="runs/teacher: expected a run of the stream 'image' alone"):
        objective.teacher.hold({"ecg": modalities["ecg"]}, other, "")


def test_without_its_teacher_a_model_can_be_built_and_not_trained(modalities, backbone_of, contents, batch_of):
    chosen = {"image": modalities["image"]}
    backbone = backbone_of(chosen)
    model = MaskedModel(backbone, component(Objective, "maskembed", run=RUN, heads=2).build(backbone, chosen))
    batch = batch_of(image=contents("image"))
    with pytest.raises(ConfigError, match="runs/teacher: this run's model was not loaded"):
        model(batch, model.hide(batch, 0.5), 0.5)
