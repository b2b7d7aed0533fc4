"""data2vec: what the teacher sees and gives, how wrong a prediction of it is, and several masks of one sample."""

import math

import pytest
import torch
from torch.nn.functional import instance_norm as torch_instance_norm
from torch.nn.functional import layer_norm
from torch.testing import assert_close

from mmpt.config import component
from mmpt.errors import ConfigError
from mmpt.model import MaskedModel
from mmpt.objectives import Objective
from mmpt.objectives.context import context_of
from mmpt.objectives.several_masks import repeated
from mmpt.objectives.spread import spread
from mmpt.objectives.targets import Target, build_target
from mmpt.tokens import Batch, Content, StreamContext
from mmpt.training.section import check_model

DECODER = {"type": "decoder", "width": 16, "depth": 1, "heads": 2}
WAYS = {"drop": DECODER, "replace": {"type": "mlp", "layers": 1}}
MODALITIES = ("text", "image", "labs", "ecg", "ecg_stem", "speech", "speech_mel")
WIDTH = 16


def stream_of(corruption="replace", layers=2, norm="instance", ratio=0.5, **changed):
    target = {"type": "teacher_latents", "layers": layers, "norm": norm}
    own = {"masking": {"ratio": ratio}, "corruption": corruption, "predictor": WAYS[corruption], "target": target}
    return {**own, **changed}


@pytest.fixture
def model_of(modalities, backbone_of, randomised):
    """`model_of(image=stream)`: with weights of the teacher's own."""

    def make(teacher=None, masks_per_sample=1, own_teacher=True, **streams):
        chosen = {name: modalities[name] for name in streams}
        backbone = backbone_of(chosen)
        settings = {"streams": streams, "teacher": teacher, "masks_per_sample": masks_per_sample}
        model = MaskedModel(backbone, component(Objective, "masked_prediction", **settings).build(backbone, chosen))
        return (randomised(model) if own_teacher else model).eval()

    return make


def rows_of(batch, rows):
    streams = {name: Content(*(t[rows] for t in content[:5])) for name, content in batch.streams.items()}
    return Batch(streams, batch.uid[rows], batch.draw[rows], batch.source, batch.position)


def target_of(modality, **settings):
    return build_target(component(Target, "teacher_latents", **settings), modality, WIDTH)


def values_of(model, name, batch):
    return model.objective.part(name).target(model.objective._contexts(batch, 0.5)[name])


def trained(model):
    return [p for p in model.parameters() if p.requires_grad]


# ---- the target


def test_one_layer_without_norm_is_what_a_hook_sees_of_the_feed_forward(model_of, full_contents, batch_of):
    model, batch = model_of(image=stream_of(layers=1, norm="none")), batch_of(image=full_contents("image"))
    backbone, seen = model.objective.teacher.average.backbone, []
    hook = backbone.trunk.blocks[-1].feedforward.register_forward_hook(lambda *given: seen.append(given[2][0]))
    backbone(batch)
    hook.remove()
    assert torch.equal(values_of(model, "image", batch), seen[0])


@pytest.mark.parametrize("norm", ["instance", "layer", "none"])
def test_the_target_is_the_mean_of_the_normed_outputs_of_the_last_blocks(model_of, full_contents, batch_of, norm):
    content = full_contents("speech_mel")
    model, batch = model_of(speech_mel=stream_of(layers=2, norm=norm)), batch_of(speech_mel=content)
    seen = []
    for block in model.objective.teacher.average.backbone.trunk.blocks:
        block.feedforward.register_forward_hook(lambda *given: seen.append(given[2][0]))
    values = values_of(model, "speech_mel", batch)
    norms = {
        "instance": lambda x: torch_instance_norm(x.transpose(1, 2)).transpose(1, 2),
        "layer": lambda x: layer_norm(x, (WIDTH,)),
        "none": lambda x: x,
    }
    assert len(seen) == 2
    assert_close(values, (norms[norm](seen[0]) + norms[norm](seen[1])) / 2, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODALITIES)
def test_a_row_with_padding_has_the_target_that_it_has_alone(model_of, contents, batch_of, name):
    model, content = model_of(**{name: stream_of()}), contents(name)
    batch = batch_of(**{name: content})
    values, known = values_of(model, name, batch), content.valid & content.observed
    for row in range(len(values)):
        alone = values_of(model, name, rows_of(batch, torch.tensor([row])))
        assert_close(alone[0][known[row]], values[row][known[row]], rtol=0, atol=2e-5)
        for document in content.segment[row][known[row]].unique():
            own = values[row][known[row] & (content.segment[row] == document)]
            assert_close(own.mean(0), torch.zeros(WIDTH), rtol=0, atol=1e-4)


def test_documents_of_a_packed_row_are_normed_apart(text):
    content = text.collate([[torch.arange(10, 20).numpy(), torch.arange(30, 70).numpy()]], None)
    taught = torch.randn(2, 1, content.valid.shape[1], WIDTH)
    target = target_of(text, layers=2)
    context = StreamContext(content, torch.zeros(1, dtype=torch.int64), 0.5, taught=taught)
    other = taught.clone()
    other[:, :, 10:] += 5 * torch.randn_like(other[:, :, 10:])
    change = (target(context) - target(context._replace(taught=other))).abs()
    assert (change[:, :10] == 0).all()
    assert (change[:, 10:] > 0).any()


@pytest.mark.parametrize(("beta", "wanted"), [(0.0, [0.25 + 9.0, 1.0]), (2.0, [0.0625 + 2.0, 0.25])])
def test_the_loss_is_the_papers(image, beta, wanted):
    target = target_of(image, layers=1, beta=beta)
    true, predicted = torch.randn(2, WIDTH), torch.zeros(2, WIDTH)
    predicted[0, 3], predicted[0, 5], predicted[1, 0] = 0.5, -3.0, 1.0
    assert_close(target.loss(true + predicted, true), torch.tensor(wanted) / math.sqrt(WIDTH), rtol=1e-5, atol=1e-6)


# ---- who sees what


@pytest.mark.parametrize("name", ["image", "text", "labs"])
@pytest.mark.parametrize("corruption", WAYS)
def test_the_teacher_sees_the_complete_row_and_the_student_does_not(
    model_of, full_contents, batch_of, name, corruption
):
    model, content = model_of(**{name: stream_of(corruption)}), full_contents(name)
    batch = batch_of(**{name: content})
    hidden = model.hide(batch, 0.5)
    place = int(hidden[name].hidden[0].nonzero()[0])
    other = content.values.clone()
    other[0, place] = content.values[0, place].roll(1) + 3 if name != "text" else 5
    changed = batch_of(**{name: content._replace(values=other)})
    known = content.observed[0]
    assert (values_of(model, name, batch) != values_of(model, name, changed))[0, known].any(1).all()
    before, after = (model.objective.predict(model.backbone, b, hidden)[name].prediction for b in (batch, changed))
    assert torch.equal(before, after)


def test_the_target_has_no_gradient_and_shown_tokens_have_no_loss(model_of, full_contents, batch_of):
    model, batch = model_of(image=stream_of()).train(), batch_of(image=full_contents("image"))
    hidden = model.hide(batch, 0.5)
    step = model(batch, hidden, 0.5)
    step.losses["image"].total.backward()
    assert all(p.grad is None for p in model.objective.teacher.parameters())
    part, values = model.objective.part("image"), values_of(model, "image", batch)
    predicted = model.objective.predict(model.backbone, batch, hidden)["image"]
    own = part.target.loss(predicted.prediction, values[predicted.row, predicted.places])
    assert len(own) == int(hidden["image"].hidden.sum())
    assert_close(own.sum(), step.losses["image"].total)


@pytest.mark.parametrize(("momentum", "wanted"), [(1.0, "fixed"), (0.0, "copy")])
def test_at_momentum_1_the_teacher_stands_still_and_at_0_it_is_a_copy(
    model_of, full_contents, batch_of, momentum, wanted
):
    model = model_of({"start": momentum, "end": momentum}, image=stream_of())
    average = dict(model.objective.teacher.average.named_parameters())
    before = {name: p.clone() for name, p in average.items()}
    model.after_update(0.5)
    student = dict(model.objective._followed(model.backbone).named_parameters())
    source = before if wanted == "fixed" else student
    assert all(torch.equal(average[name], source[name]) for name in average)
    assert not all(torch.equal(before[name], student[name]) for name in average)


def test_a_teacher_may_use_the_encoders_of_its_student(model_of):
    model = model_of({"start": 0.5, "end": 0.5, "encoders": "same"}, image=stream_of())
    average = dict(model.objective.teacher.average.named_parameters())
    before = {name: p.clone() for name, p in average.items()}
    model.after_update(0.5)
    for name, own in model.objective._followed(model.backbone).named_parameters():
        same = name.startswith("backbone.encoders")
        assert_close(average[name], own if same else (own + before[name]) / 2, rtol=0 if same else 1e-5, atol=1e-6)


# ---- every modality, both corruptions, absent streams


@pytest.mark.parametrize("corruption", WAYS)
@pytest.mark.parametrize("name", MODALITIES)
def test_every_modality_has_gradients_everywhere_also_where_its_stream_is_absent(
    model_of, contents, batch_of, name, corruption
):
    other = "image" if name != "image" else "text"
    model = model_of(**{name: stream_of(corruption), other: stream_of(corruption, layers=1)}).train()
    for present in ((name, other), (name,), (other,)):
        rows = min(len(contents(stream).valid) for stream in present)
        batch = rows_of(batch_of(**{stream: contents(stream) for stream in present}), torch.arange(rows))
        hidden = model.hide(batch, 0.5)
        step = model(batch, hidden, 0.5)
        model.zero_grad()
        (sum(loss.total for loss in step.losses.values()) + step.balance).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in trained(model))
        assert all(
            f"{stream}/{figure}" in step.metrics
            for stream in present
            for figure in ("target_std", "latent_std", "loss")
        )


def test_hard_patches_and_latents_may_ask_the_same_teacher(model_of, contents, batch_of):
    importance = {"type": "predicted_loss", "start": 0.5, "end": 0.5}
    guided = {"masking": {"ratio": 0.6, "importance": importance}, "loss_predictor": {"predictor": DECODER}}
    model, batch = model_of(image=stream_of("drop", **guided)), batch_of(image=contents("image"))
    step = model(batch, model.hide(batch, 0.5), 0.5)
    assert step.losses["image"].total.isfinite()
    assert {"image/teacher_spearman", "image/target_std"} <= set(step.metrics)


# ---- several masks of a sample


@pytest.mark.parametrize("average", ["scored", "sample", "valid"])
@pytest.mark.parametrize("corruption", WAYS)
def test_several_masks_are_as_many_samples_with_one_look_of_the_teacher(
    model_of, contents, batch_of, corruption, average
):
    several, single = (
        model_of(image=stream_of(corruption, average=average), masks_per_sample=masks) for masks in (3, 1)
    )
    batch = batch_of(image=contents("image"))
    hidden, looks = several.hide(batch, 0.5), []
    several.objective.teacher.average.backbone.trunk.register_forward_hook(lambda *given: looks.append(given[1][0].x))
    step = several(batch, hidden, 0.5)
    assert [len(look) for look in looks] == [len(batch.uid)]
    many = repeated(batch, 3)
    theirs = single.hide(many, 0.5)
    wanted = single(many, theirs, 0.5)
    assert torch.equal(hidden["image"].hidden, theirs["image"].hidden)
    assert hidden["image"].denominator == theirs["image"].denominator
    assert_close(step.losses["image"].total, wanted.losses["image"].total, rtol=1e-5, atol=1e-5)
    assert_close(step.losses["image"].rows, wanted.losses["image"].rows.view(3, -1).sum(0), rtol=1e-4, atol=1e-5)
    masks = hidden["image"].hidden.view(3, *batch.streams["image"].valid.shape)
    assert torch.equal(masks[0], single.hide(batch, 0.5)["image"].hidden)
    assert not torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[1], masks[2])


def test_several_masks_of_pixels_need_no_teacher(model_of, contents, batch_of):
    pixels = stream_of("drop", target="pixels")
    several, single = (model_of(image=pixels, masks_per_sample=masks) for masks in (2, 1))
    batch = batch_of(image=contents("image"))
    assert several.objective.teacher is None
    step, hidden = several(batch, several.hide(batch, 0.5), 0.5), several.hide(batch, 0.5)
    many = repeated(batch, 2)
    assert_close(step.losses["image"].total, single(many, single.hide(many, 0.5), 0.5).losses["image"].total)
    predicted = several.objective.predict(several.backbone, batch, hidden)["image"]
    assert len(predicted.hidden) == len(batch.uid)
    assert torch.equal(predicted.prediction, single.objective.predict(single.backbone, batch, hidden)["image"][1])


# ---- figures


def test_the_spread_is_that_of_data2vec():
    x = torch.randn(50, 8) * torch.linspace(0.1, 2, 8)
    above, below = spread(x)
    assert_close(above / below, (x.var(0) + 1e-6).sqrt().mean())
    assert float(below) == 50
    same, count = spread(torch.ones(5, 8))
    assert float(same / count) == pytest.approx(1e-3)
    assert all(float(number) >= 0 for number in (*spread(torch.ones(1, 8)), *spread(torch.ones(0, 8))))


def test_spreads_are_those_of_scored_tokens(model_of, contents, batch_of):
    model, batch = model_of(image=stream_of()), batch_of(image=contents("image"))
    hidden = model.hide(batch, 0.5)
    step = model(batch, hidden, 0.5)
    predicted = model.objective.predict(model.backbone, batch, hidden)["image"]
    values = values_of(model, "image", batch)[predicted.row, predicted.places]
    for name, x in (("target_std", values), ("prediction_std", predicted.prediction)):
        above, below = step.metrics[f"image/{name}"]
        assert_close(above / below, (x.var(0) + 1e-6).sqrt().mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("corruption", ["drop", "replace"])
def test_the_spread_of_latents_is_that_of_the_tokens_the_trunk_sees(model_of, contents, batch_of, corruption):
    """Neither of padding, here full of other numbers, nor of mask tokens."""
    model, batch = model_of(speech=stream_of(corruption)), batch_of(speech=contents("speech"))
    content, hidden = batch.streams["speech"], model.hide(batch, 0.5)
    assert not content.valid.all()
    own = model.objective._latents(model.backbone, batch, hidden, 0.5).latents["speech"]
    seen = own.shown.tokens.valid if corruption == "drop" else content.valid & ~hidden["speech"].hidden
    above, below = model(batch, hidden, 0.5).metrics["speech/latent_std"]
    assert below == seen.sum() == (content.valid & ~hidden["speech"].hidden).sum()
    assert_close(above / below, (own.own[seen].var(0) + 1e-6).sqrt().mean(), rtol=1e-4, atol=1e-5)


# ---- what is refused


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ({"layers": 3}, r"objective\.streams\.image\.target\.layers: expected 1 to 2, the trunk's depth, got 3"),
        ({"layers": 0}, "layers, beta: expected 1 or more"),
        ({"layers": 1, "beta": -1.0}, "layers, beta: expected 1 or more"),
    ],
)
def test_layers_that_are_not_there_are_refused(model_of, target, sentence):
    with pytest.raises(ConfigError, match=sentence):
        model_of(image=stream_of(target={"type": "teacher_latents", **target}))


def test_a_divided_teacher_is_refused(model_of):
    check_model({"zero_optimization": {"stage": 2}}, model_of(image=stream_of()))
    with pytest.raises(ConfigError, match=r"can't follow parts of them; use stage 0, 1 or 2"):
        check_model({"zero_optimization": {"stage": 3}}, model_of(image=stream_of()))


def test_no_mask_at_all_is_refused(model_of):
    with pytest.raises(ConfigError, match=r"objective\.masks_per_sample: expected at least 1, got 0"):
        model_of(image=stream_of(), masks_per_sample=0)


def test_a_context_without_a_teacher_is_refused(image, full_contents, batch_of):
    target, batch = target_of(image, layers=1), batch_of(image=full_contents("image"))
    with pytest.raises(ConfigError, match="needs a teacher's latents"):
        target(context_of(batch, "image", 0.5))
