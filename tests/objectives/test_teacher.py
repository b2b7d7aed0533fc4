"""The averaged teacher: how it follows, what it sees, and what it makes of a step."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mmpt.build import count_parameters, parameter_counts
from mmpt.config import component
from mmpt.errors import ConfigError
from mmpt.model import MaskedModel
from mmpt.objectives import Objective
from mmpt.objectives.context import context_of
from mmpt.objectives.loss_prediction import spearman
from mmpt.objectives.teacher import NATIVE_BFLOAT16, Teacher, TeacherSettings, _all_but, precision_of
from mmpt.settings import OptimizerSettings
from mmpt.tokens import Batch, Content
from mmpt.training.optimizer import optimizer_for
from mmpt.training.section import check_model

DECODER = {"type": "decoder", "width": 16, "depth": 1, "heads": 2}
CROSS = {**DECODER, "type": "cross_decoder"}
GUIDED = {"ratio": 0.6, "importance": {"type": "predicted_loss", "start": 0.5, "end": 0.5}}
TARGETS = {"image": "pixels", "text": "token_ids", "labs": "cells", "ecg": "signal", "speech_mel": "log_mel"}


def stream_of(name, predictor=DECODER, corruption="drop", masking=GUIDED, **changed):
    own = {"masking": masking, "corruption": corruption, "predictor": predictor, "target": TARGETS[name]}
    return {**own, "loss_predictor": {"predictor": predictor}, **changed}


@pytest.fixture
def fresh(modalities, backbone_of):
    """`fresh(image=stream, text=stream)`: as a run begins."""

    def make(teacher=None, **streams):
        chosen = {name: modalities[name] for name in streams}
        backbone = backbone_of(chosen)
        settings = {"streams": streams} | ({} if teacher is None else {"teacher": teacher})
        return MaskedModel(backbone, component(Objective, "masked_prediction", **settings).build(backbone, chosen))

    return make


@pytest.fixture
def model_of(fresh, randomised):
    """The same with weights of the teacher's own."""
    return lambda **settings: randomised(fresh(**settings)).eval()


def rows_of(batch, rows):
    streams = {name: Content(*(t[rows] for t in content[:5])) for name, content in batch.streams.items()}
    return Batch(streams, batch.uid[rows], batch.draw[rows], batch.source, batch.position)


# ---- how it follows


def test_after_k_updates_the_weights_are_the_closed_form_average():
    student, settings = nn.Linear(3, 2), TeacherSettings(start=0.5, end=0.9, rise=0.4)
    teacher, weights, progress = (
        Teacher(student, settings),
        [student.weight.detach().clone()],
        [0.0, 0.1, 0.2, 0.5, 1.0],
    )
    for done in progress:
        with torch.no_grad():
            student.weight.add_(torch.randn(2, 3))
        weights.append(student.weight.detach().clone())
        teacher.follow(student, done)
    momenta = [0.5, 0.6, 0.7, 0.9, 0.9]
    kept = [torch.tensor(momenta[k:]).prod() for k in range(6)]
    wanted = kept[0] * weights[0] + sum(
        (1 - m) * after * weight for m, after, weight in zip(momenta, kept[1:], weights[1:], strict=True)
    )
    assert_close(teacher.average.weight, wanted)


def test_the_momentum_rises_along_a_line_and_stays():
    settings = TeacherSettings()
    assert settings.momentum(0.0) == 0.999
    assert settings.momentum(0.25) == pytest.approx(0.99945)
    assert settings.momentum(0.5) == settings.momentum(0.8) == settings.momentum(1.0) == pytest.approx(0.9999)


@pytest.mark.parametrize(
    ("wrong", "sentence"), [({"start": 1.1}, "start: expected a momentum"), ({"rise": 0.0}, "rise: expected a share")]
)
def test_momenta_that_make_no_sense_are_refused(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        TeacherSettings(**wrong)


def test_the_teacher_begins_as_its_student_is_never_trained_and_counted_apart(fresh):
    model = fresh(image=stream_of("image", corruption="replace"))
    average = dict(model.objective.teacher.average.named_parameters())
    followed = dict(model.objective._followed(model.backbone).named_parameters())
    assert {name.partition(".")[0] for name in average} == {"backbone", "corruptions", "predictors"}
    assert all(torch.equal(average[name], followed[name]) for name in followed)
    assert not {id(p) for p in average.values()} & {id(p) for p in followed.values()}
    assert not any(p.requires_grad for p in average.values())
    model.train()
    assert not any(part.training for part in model.objective.teacher.modules())
    trained = {id(p) for group in optimizer_for(model, OptimizerSettings(learning_rate=1.0)).param_groups
               for p in group["params"]}  # fmt: skip
    assert not {id(p) for p in average.values()} & trained
    counts = parameter_counts(model)
    assert counts["teacher (a copy, not trained)"] == count_parameters([model.objective.teacher])
    assert counts["all"] == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_only_after_update_moves_the_teacher(model_of, full_contents, batch_of):
    model, batch = model_of(image=stream_of("image"), teacher={"start": 0.5, "end": 0.5}), batch_of(
        image=full_contents("image")
    )  # fmt: skip
    before = {name: p.clone() for name, p in model.objective.teacher.average.named_parameters()}
    step = model(batch, model.hide(batch, 0.5), 0.5)
    step.losses["image"].total.backward()
    average = dict(model.objective.teacher.average.named_parameters())
    assert all(torch.equal(average[name], before[name]) and average[name].grad is None for name in before)
    model.after_update(0.5)
    theirs = dict(model.objective._followed(model.backbone).named_parameters())
    for name, parameter in average.items():
        assert_close(parameter, (before[name] + theirs[name]) / 2)


# ---- what it sees and what comes of it


@pytest.mark.parametrize("predictor", [DECODER, CROSS], ids=["decoder", "cross_decoder"])
def test_the_teacher_sees_the_complete_row_and_no_other(model_of, contents, batch_of, predictor):
    model, content = model_of(image=stream_of("image", predictor)), contents("image")
    batch = batch_of(image=content)
    predicted = model.objective.teacher.look(batch, 0.5)["image"]
    assert predicted.shape == content.valid.shape
    other = content.values.clone()
    other[0, 7] = 255 - other[0, 7]
    change = (
        model.objective.teacher.look(batch_of(image=content._replace(values=other)), 0.5)["image"] - predicted
    ).abs()
    assert (change[0] > 0).all()
    assert (change[1:] == 0).all()
    for row in range(len(predicted)):
        alone = model.objective.teacher.look(rows_of(batch, torch.tensor([row])), 0.5)["image"]
        assert_close(alone[0][content.valid[row]], predicted[row][content.valid[row]], rtol=0, atol=1e-5)


@pytest.mark.parametrize("views", [2, 3, 4])
def test_with_complementary_views_each_part_is_judged_from_the_others(model_of, contents, batch_of, views):
    """A token's number comes from looks that hide it: its own content can't matter, that of other parts does."""
    model, content = model_of(image=stream_of("image"), teacher={"views": views}), contents("image")
    batch = batch_of(image=content)
    looks = [_all_but(view, views, context_of(batch, "image", 0.5)).hidden for view in range(views)]
    shown = torch.stack([content.observed & ~look for look in looks])
    assert torch.equal(shown.sum(0), content.observed.long())
    assert (shown.sum(2).amax(0) - shown.sum(2).amin(0)).max() <= 1
    predicted = model.objective.teacher.look(batch, 0.5)["image"]
    other = content.values.clone()
    other[0, 7] = 255 - other[0, 7]
    change = model.objective.teacher.look(batch_of(image=content._replace(values=other)), 0.5)["image"] - predicted
    own = shown[:, 0, 7].long().argmax()
    same = shown[own, 0]
    assert (change[0, same] == 0).all()
    assert (change[0, content.observed[0] & ~same] != 0).all()
    assert (change[1:] == 0).all()


@pytest.mark.parametrize("name", ["image", "text"])
def test_the_parts_of_complementary_views_have_the_size_they_say(full_contents, batch_of, name):
    content = full_contents(name)
    for views in (2, 5, 100):
        for view in range(views):
            hidden = _all_but(view, views, context_of(batch_of(**{name: content}), name, 0.5))
            assert hidden.hidden_count is not None
            assert (hidden.hidden.sum(1) == hidden.hidden_count).all()


@pytest.mark.parametrize("name", ["text", "labs", "ecg", "speech_mel"])
@pytest.mark.parametrize("corruption", ["drop", "replace"])
def test_complementary_views_of_a_row_are_those_it_has_alone(model_of, contents, batch_of, name, corruption):
    model = model_of(**{name: stream_of(name, corruption=corruption)}, teacher={"views": 3})
    batch = batch_of(**{name: contents(name)})
    predicted, maskable = model.objective.teacher.look(batch, 0.5)[name], contents(name).observed
    for row in range(len(predicted)):
        alone = model.objective.teacher.look(rows_of(batch, torch.tensor([row])), 0.5)[name]
        assert_close(alone[0][maskable[row]], predicted[row][maskable[row]], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", TARGETS)
def test_the_tokens_that_the_teacher_finds_hardest_are_hidden(model_of, contents, batch_of, name):
    model, batch = model_of(**{name: stream_of(name)}), batch_of(**{name: contents(name)})
    predicted, hidden = model.objective.teacher.look(batch, 0.5)[name], model.hide(batch, 0.5)[name]
    assert torch.equal(hidden.guide.predicted, predicted)
    maskable = batch.streams[name].valid & batch.streams[name].observed
    for row, mask, may in zip(predicted, hidden.hidden, maskable, strict=True):
        count = int(mask.sum()) // 2
        top = row.masked_fill(~may, -torch.inf).argsort(descending=True)[:count]
        assert mask[top].all()
    step = model(batch, model.hide(batch, 0.5), 0.5)
    assert step.losses[name].total.isfinite()
    figures = ("loss", "loss_prediction", "spearman", "teacher_spearman", "hard_overlap", "hard_overlap_by_chance")
    assert set(step.metrics) == {f"{name}/{figure}" for figure in figures}


def test_a_quick_look_ranks_as_the_exact_one_does_and_changes_nothing_else(model_of, full_contents, batch_of):
    """bfloat16 where the processor multiplies it, the step's precision elsewhere."""
    content = full_contents("image")
    exact, quick = (model_of(image=stream_of("image"), teacher={"precision": p}) for p in ("step", "auto"))
    batch = batch_of(image=content)
    one, other = (model.objective.teacher.look(batch, 0.5)["image"] for model in (exact, quick))
    native = any(map(torch.cpu.get_capabilities().get, NATIVE_BFLOAT16))
    assert torch.equal(one, other) != native
    assert other.dtype == torch.float32
    total, rows = spearman(one, other, content.observed)
    assert total / rows > 0.99
    told = exact.objective.teacher.taught(batch, 1)["image"], quick.objective.teacher.taught(batch, 1)["image"]
    assert torch.equal(*told)
    hidden = exact.hide(batch, 0.5)
    losses = [model(batch, hidden, 0.5).losses["image"].total for model in (exact, quick)]
    assert torch.equal(*losses)


def test_on_other_devices_the_step_decides_the_precision():
    with precision_of(torch.device("meta")):
        assert not torch.is_autocast_enabled("cpu")


def test_text_with_a_head_of_its_own_for_every_token(model_of, contents, batch_of):
    head = {"type": "mlp", "layers": 1}
    streams = {"text": stream_of("text", "tied", "replace", loss_predictor={"predictor": head})}
    model, batch = model_of(**streams), batch_of(text=contents("text"))
    step = model(batch, model.hide(batch, 0.5), 0.5)
    (step.losses["text"].total + step.balance).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_a_step_without_a_guided_stream_asks_nobody(model_of, contents, batch_of):
    plain = stream_of("text", "tied", "replace", masking={"ratio": 0.3}, loss_predictor=None)
    model = model_of(image=stream_of("image"), text=plain)
    batch = batch_of(text=contents("text"))
    assert model.objective.teacher.look(batch, 0.5) == {}
    step = model.train()(batch, model.hide(batch, 0.5), 0.5)
    (step.losses["text"].total + step.balance).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


# ---- the loss of the loss predictor


@pytest.mark.parametrize("form", ["relative", "absolute"])
def test_the_loss_is_that_of_the_stream_and_of_the_predictor_and_only_the_encoder_hears_of_both(
    model_of, full_contents, batch_of, form
):
    batch, gradients, totals = batch_of(image=full_contents("image")), {}, {}
    for weight in (0.0, 1.0, 3.0):
        model = model_of(
            image=stream_of("image", loss_predictor={"predictor": DECODER, "weight": weight, "form": form})
        )
        hidden = model.hide(batch, 0.5)
        step = model(batch, hidden, 0.5)
        step.losses["image"].total.backward()
        totals[weight] = float(step.losses["image"].total.detach() / hidden["image"].denominator)
        gradients[weight] = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        main, own = (float(step.metrics[f"image/{n}"][0] / step.metrics[f"image/{n}"][1])
                     for n in ("loss", "loss_prediction"))  # fmt: skip
        assert totals[weight] == pytest.approx(main + weight * own, rel=1e-5)
    moved = {name for name in gradients[0.0] if not torch.allclose(gradients[0.0][name], gradients[1.0][name])}
    assert any(name.startswith("backbone.trunk") for name in moved)
    assert any("loss_prediction.predictor.blocks" in name for name in moved)
    assert any("predictor.entry" in name for name in moved)  # which both predictors share
    # no gradient goes through the true losses into what made them
    assert not any(name.startswith("objective.streams.image.predictor.blocks") for name in moved)
    assert not any(name.startswith("objective.streams.image.predictor.head") for name in moved)


@pytest.mark.parametrize("form", ["relative", "absolute"])
@pytest.mark.parametrize("average", ["scored", "sample", "valid"])
@pytest.mark.parametrize("name", ["image", "ecg", "text"])
def test_losses_of_parts_of_a_batch_add_up(model_of, contents, batch_of, form, average, name):
    settings = {"predictor": DECODER, "form": form}
    model = model_of(**{name: stream_of(name, average=average, loss_predictor=settings)})
    batch = batch_of(**{name: contents(name)})
    hidden = model.hide(batch, 0.5)
    whole = model(batch, hidden, 0.5)
    total, denominator = 0.0, 0.0
    figures = {figure: [0.0, 0.0] for figure in whole.metrics}
    for row in range(len(batch.uid)):
        part = rows_of(batch, torch.tensor([row]))
        mine = model.hide(part, 0.5)
        assert torch.equal(mine[name].hidden[0], hidden[name].hidden[row])
        step = model(part, mine, 0.5)
        total, denominator = total + step.losses[name].total, denominator + mine[name].denominator
        for figure, (above, below) in step.metrics.items():
            figures[figure] = [figures[figure][0] + float(above), figures[figure][1] + float(below)]
    assert denominator == hidden[name].denominator
    assert_close(total, whole.losses[name].total, rtol=1e-5, atol=1e-5)
    for figure, (above, below) in whole.metrics.items():
        assert figures[figure] == pytest.approx([float(above), float(below)], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("predictor", [DECODER, CROSS], ids=["decoder", "cross_decoder"])
def test_predictors_of_one_type_share_their_entry_and_nothing_else(model_of, predictor):
    part = model_of(image=stream_of("image", predictor)).objective.part("image")
    main, own = part.predictor, part.loss_prediction.predictor
    assert len(main.entry_parts) == 3
    assert all(getattr(own, name) is getattr(main, name) for name in main.entry_parts)
    shared = {id(p) for p in own.parameters()} & {id(p) for p in main.parameters()}
    assert len(shared) == 3  # weight and bias of the map, the vector


# ---- what is refused


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"loss_predictor": None}, "'predicted_loss' asks a teacher, and the stream has no loss_predictor"),
        ({"loss_predictor": {"predictor": "mlp"}}, "predictor 'mlp' can't place them either"),
        (
            {"loss_predictor": {"predictor": {**DECODER, "width": 8}}},
            "shares 'entry' of the stream's predictor, 16 x 16",
        ),
        ({"loss_predictor": {"predictor": "tied"}}, "predictor 'tied' needs an embedding table"),
    ],
)
def test_a_stream_that_can_not_be_guided_is_refused(model_of, changed, sentence):
    with pytest.raises(ConfigError, match=sentence):
        model_of(image=stream_of("image", **changed))


def test_a_tied_head_of_one_number_is_refused(model_of):
    with pytest.raises(ConfigError, match=r"'tied' gives a number for each of \d+ ids where 1 is predicted"):
        model_of(text=stream_of("text", "tied", "replace"))


def test_a_teacher_that_nobody_asks_is_refused(model_of):
    with pytest.raises(ConfigError, match=r"objective\.teacher: no stream asks one"):
        model_of(image=stream_of("image", masking={"ratio": 0.5}), teacher={})


def test_a_divided_teacher_is_refused_and_a_loss_predictor_alone_is_not(model_of):
    divided = {"zero_optimization": {"stage": 3}}
    check_model({"zero_optimization": {"stage": 2}}, model_of(image=stream_of("image")))
    check_model(divided, model_of(image=stream_of("image", masking={"ratio": 0.5})))
    with pytest.raises(ConfigError, match=r"zero_optimization\.stage: 3 divides the weights.*use stage 0, 1 or 2"):
        check_model(divided, model_of(image=stream_of("image")))
