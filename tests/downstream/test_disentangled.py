"""MEDFuse's fusion: what it is made of, the bound beside the task's loss, and the estimator that learns by itself."""

import io
from itertools import pairwise

import pytest
import torch
from rich.console import Console
from running import close, mmpt, weights
from torch.nn.functional import scaled_dot_product_attention
from torch.testing import assert_close
from walks import walk

import mmpt as package
from mmpt.config import component
from mmpt.errors import ConfigError
from mmpt.finetune import Classifier, load
from mmpt.finetune.examples import examples_of
from mmpt.finetune.model import plain_model
from mmpt.finetune.rows import Rows
from mmpt.finetune.strategies import Strategy
from mmpt.pools import Pool, TokenLatents
from mmpt.settings import OptimizerSettings
from mmpt.training.optimizer import optimizer_for
from tests.pools.rows import ROWS, WIDTH, streams_of

BOUND = "mutual_information"
SIZE = 8


def fusion(**settings):
    return component(Pool, "disentangled", **{"size": SIZE, "heads": 2, **settings})


def full_streams(rows=6, seed=3):
    """Both streams in every row, and no padding."""
    generator = torch.Generator().manual_seed(seed)
    every = torch.ones(rows, 4, dtype=torch.bool)
    place = torch.arange(4).expand(rows, -1)
    return {
        name: TokenLatents(torch.randn(rows, 4, WIDTH, generator=generator), every, every, place)
        for name in ("text", "image")
    }


def rows_of(streams, rows):
    return {name: TokenLatents(*(t[rows] for t in own)) for name, own in streams.items()}


def bound(pool, streams, counted):
    pool(streams)
    return pool.loss(counted)


@pytest.fixture(scope="module")
def encoder(run):
    return package.load(run)


def task_of(encoder, **settings):
    task = Classifier(encoder, label="place", pool=fusion(**settings))
    task.facts = {"classes": ["hill", "sea"], "counts": [1, 1]}
    return task


def batch_of(task, numbers, padding=0):
    """Every fifth walk lacks its text."""
    samples = [{name: value for name, value in walk(n).items() if name in task.inputs} for n in numbers]
    labels = [task.read(walk(n)["labels"]["place"]) for n in numbers]
    rows = Rows(task, examples_of(samples, task.inputs, label=None, split="train"), labels)
    return rows.batch(range(len(numbers)), padding=padding)


def losses(model, batch):
    """By name, as the engine divides them."""
    hidden = model.hide(batch, 0.0)
    return {name: own.total / hidden[name].denominator for name, own in model(batch, hidden, 0.0).losses.items()}


# ---- the parts


def attended(layer, query, memory):
    """Torch's attention with a cross-attention's weights."""
    keys, values = layer.key_value(memory).chunk(2, dim=1)
    split = [x.unflatten(1, (layer.heads, -1)).transpose(0, 1) for x in (layer.query(query), keys, values)]
    return layer.proj(scaled_dot_product_attention(*split).transpose(0, 1).flatten(1))


def test_the_common_part_asks_both_streams_by_the_product_of_all_pairs_of_tokens(randomised):
    pool, streams = randomised(fusion().build(WIDTH)), full_streams(2)
    first, shared, second = pool.parted(streams)
    for row in range(2):
        (a, s_a), (b, s_b) = (
            [x[row] for x in side(own)] for side, own in zip((pool.first, pool.second), streams.values(), strict=True)
        )
        product = torch.stack([torch.kron(one, other) for one in a for other in b]).mean(0)
        common = pool.joint(product).unsqueeze(0)
        expected = pool.joint_norm(common + attended(pool.find, common, torch.cat([s_a, s_b])))[0]
        assert_close(shared[row], expected, rtol=1e-4, atol=1e-5)
        assert_close(first[row], s_a.mean(0))
        assert_close(second[row], s_b.mean(0))
    assert_close(pool(streams), pool.out(torch.cat([first, shared, second], dim=1)))


def test_rows_and_tokens_in_another_order_are_the_same_rows(randomised):
    pool, streams = randomised(fusion().build(WIDTH)), streams_of()
    counted = torch.tensor([True, False, False, False])
    turn = torch.tensor([2, 0, 3, 1])
    assert_close(pool(rows_of(streams, turn)), pool(streams)[turn])
    assert_close(bound(pool, rows_of(streams, turn), counted[turn]), bound(pool, streams, counted)[turn])
    flipped = {name: TokenLatents(*(t.flip(1) for t in own)) for name, own in streams.items()}
    assert_close(pool(flipped), pool(streams), rtol=0, atol=1e-5)


def test_each_part_is_of_its_own_streams_alone(randomised):
    pool, streams = randomised(fusion().build(WIDTH)), full_streams()
    other = {**streams, "image": full_streams(seed=4)["image"]}
    before, after = pool.parted(streams), pool.parted(other)
    assert torch.equal(before[0], after[0])
    assert not torch.isclose(before[1], after[1]).any(dim=1).all()
    assert not torch.isclose(before[2], after[2]).any(dim=1).all()


def test_the_bound_does_not_fall_with_mere_size(randomised):
    pool, streams = randomised(fusion().build(WIDTH)), full_streams()
    counted = torch.ones(6, dtype=torch.bool)
    before = bound(pool, streams, counted)
    with torch.no_grad():
        pool.joint_norm.weight.mul_(0.1)
        pool.joint_norm.bias.mul_(0.1)
    assert_close(bound(pool, streams, counted), before, rtol=0.05, atol=0.05)


def test_the_gradient_of_the_bound_reaches_both_of_its_sides(randomised):
    pool = randomised(fusion().build(WIDTH))
    pool(full_streams())
    sides = pool.pairs
    loss = pool.loss(torch.ones(6, dtype=torch.bool)).sum()
    assert all((side != 0).any() for side in torch.autograd.grad(loss, sides))
    assert not any(side.requires_grad for side in pool.pairs)  # what the estimator will learn from
    with pytest.raises(ValueError, match="a forward pass in training for each time"):
        pool.loss(torch.ones(6, dtype=torch.bool))


# ---- the bound beside the task's loss


def test_only_labelled_rows_with_both_streams_are_counted(encoder):
    task = task_of(encoder)
    model, batch = plain_model(task), batch_of(task, range(10), padding=3)
    hidden = model.hide(batch, 0.0)
    assert hidden["task"].denominator == 10
    assert hidden[BOUND].scored.squeeze(1).tolist() == [n % 5 < 4 for n in range(10)] + [False] * 3
    both = batch_of(task, [n for n in range(10) if n % 5 < 4])
    with_all, with_both = (losses(model, own)[BOUND] for own in (batch, both))
    assert_close(with_all, with_both, rtol=1e-4, atol=1e-6)
    assert losses(model, batch_of(task, [4, 9]))["task"].isfinite()  # none has both


def test_the_gradient_is_the_tasks_and_the_weighted_bounds(encoder):
    task = task_of(encoder)
    model, batch = plain_model(task), batch_of(task, range(10))
    model.backbone.eval()
    assert model.objective.weights() == {"task": 1.0, BOUND: 0.1}
    found = {}
    for name in ("task", BOUND):
        model.zero_grad()
        losses(model, batch)[name].backward()
        found[name] = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    assert not any("estimator" in n for n in found[BOUND])
    assert any(n.startswith("backbone.encoders.text") for n in found[BOUND])
    assert any(n.startswith("backbone.encoders.image") for n in found[BOUND])
    assert not any(".out." in n or ".linear." in n for n in found[BOUND] if found[BOUND][n].any())


def trained(model, batches, weight):
    """A few plain updates."""
    optimizer = optimizer_for(model, OptimizerSettings(learning_rate=1e-2))
    torch.manual_seed(0)
    for batch in batches:
        own = losses(model, batch)
        optimizer.zero_grad()
        (own["task"] + (weight * own[BOUND] if weight else 0.0)).backward()
        optimizer.step()
        model.after_update(0.0)
    return model.state_dict()


def test_weight_0_is_no_bound_bit_for_bit(encoder):
    batches = [batch_of(task_of(encoder), range(start, start + 10)) for start in (0, 10, 20)]
    without, beside, with_it = (plain_model(task_of(encoder, weight=weight)) for weight in (0.0, 0.1, 0.1))
    assert without.objective.weights() == {"task": 1.0}
    assert not any("estimator" in name for name in without.state_dict())
    plain, learned, bounded = (
        trained(model, batches, weight) for model, weight in ((without, 0.0), (beside, 0.0), (with_it, 0.1))
    )
    assert all(torch.equal(value, learned[name]) for name, value in plain.items())
    assert any(not torch.equal(value, bounded[name]) for name, value in plain.items())


def test_each_step_moves_its_own_weights_and_no_others(encoder):
    task = task_of(encoder)
    model = plain_model(task)
    optimizer = optimizer_for(model, OptimizerSettings(learning_rate=1e-2))
    states = []

    def keep():
        states.append({name: value.clone() for name, value in model.state_dict().items()})

    keep()
    torch.stack(list(losses(model, batch_of(task, range(10))).values())).sum().backward()
    optimizer.step()
    keep()
    model.after_update(0.0)
    keep()
    model.after_update(0.0)  # there is nothing to learn from any more
    keep()
    moved = [{n for n in one if not torch.equal(one[n], other[n])} for one, other in pairwise(states)]
    of_estimator = {name for name in states[0] if "pool.estimator." in name}
    assert moved[0] > {f"objective.head.pool.{part}" for part in ("out.weight", "joint.weight", "find.query.weight")}
    assert not moved[0] & of_estimator
    assert moved[1] == of_estimator
    assert not moved[2]
    assert not {id(p) for p in model.objective.head.pool.estimator.parameters()} & {
        id(p) for group in optimizer.param_groups for p in group["params"]
    }


def test_the_estimator_learns_beside_an_auxiliary_loss(encoder):
    task = task_of(encoder)
    model = plain_model(task)
    component(Strategy, "auxiliary").build().prepare(model, encoder)
    batch = batch_of(task, range(10))
    assert BOUND in losses(model, batch)
    before = model.state_dict()["objective.task.head.pool.estimator.steps"].clone()
    model.after_update(0.0)
    assert model.state_dict()["objective.task.head.pool.estimator.steps"] == before + 1


# ---- fits


class Stop(Exception):
    """As a kill: nothing behind it is done."""


class StopsAt(io.StringIO):
    """A console's file that ends the process's work when an epoch is told."""

    def write(self, text):
        if "epoch 3/4" in text:
            raise Stop
        return super().write(text)


def fit(encoder, shards, out=None, console=None, stage=0, **settings):
    """Sixty walks, three updates an epoch; the last one has ten rows."""
    task = Classifier(encoder, label="place", pool=fusion(**settings))
    return task.fit(
        shards / "validation", shards / "test", out=out, console=console, epochs=4, batch_size=25, learning_rate=3e-3,
        metric="auroc", deepspeed={"zero_optimization": {"stage": stage}},
    )  # fmt: skip


def told(result):
    return [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in result.history]


@pytest.fixture(scope="module")
def fitted(encoder, shards):
    return fit(encoder, shards)


def test_a_fit_tells_the_bound_and_its_estimator_took_every_step(fitted, shards, tmp_path):
    assert all(BOUND in epoch for epoch in fitted.history)
    state = fitted.task.model.state_dict()
    assert state["objective.head.pool.estimator.steps"] == 3 * fitted.best_epoch
    again = load(fitted.save(tmp_path / "task"))
    assert (again.predict_scores(shards) == fitted.task.predict_scores(shards)).all()
    only = [{"text": walk(n)["text"]} for n in range(3)]
    assert len(fitted.task.predict(only)) == 3


def test_stopped_within_an_epoch_the_same_fit_goes_on_bit_for_bit(encoder, shards, tmp_path):
    straight = fit(encoder, shards, stage=1)
    out = tmp_path / "fit"
    with pytest.raises(Stop):
        fit(encoder, shards, out=out, console=Console(file=StopsAt(), width=400), stage=1)
    resumed = fit(encoder, shards, out=out, stage=1)
    assert told(resumed) == told(straight)
    theirs = straight.task.model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in resumed.task.model.state_dict().items())


@pytest.mark.slow
def test_two_ranks_learn_what_one_learns(fitted, run, shards, tmp_path):
    recipe = tmp_path / "fusion.yaml"
    recipe.write_text(
        f"encoder: {run}\ntask: {{type: classifier, label: place, pool: {{type: disentangled, size: 8, heads: 2}}}}\n"
        f"train: {shards}/validation\nvalidation: {shards}/test\n"
        "fit: {epochs: 4, batch_size: 25, learning_rate: 3e-3, metric: auroc,\n"
        "      deepspeed: {zero_optimization: {stage: 2}}}\n",
        encoding="utf-8",
    )
    done = mmpt("finetune", recipe, "--out", tmp_path / "two", ranks=2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert close(fitted.task.model.state_dict(), weights(tmp_path / "two"))


# ---- what is refused


def test_another_number_of_streams_is_refused(encoder):
    with pytest.raises(
        ConfigError, match="inputs: pool 'disentangled' joins 2 streams, got image; name 2 of text, image"
    ):
        Classifier(encoder, label="place", inputs=["image"], pool=fusion())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"size": 65}, "size: expected 1 to 64, got 65"),
        ({"size": 0}, "size: expected 1 to 64, got 0"),
        ({"heads": 3}, "width 8 can't be shared by 3 heads"),
        ({"weight": -0.1}, "weight, estimator_rate: expected 0 or more and above 0, got -0.1"),
        ({"estimator_rate": 0.0}, "weight, estimator_rate: expected 0 or more and above 0"),
    ],
)
def test_settings_without_sense_are_refused(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        fusion(**settings).build(WIDTH)


def test_rows_that_lack_everything_are_zeros_for_both_sides():
    first, _, second = fusion().build(WIDTH).parted(streams_of())
    assert (first[torch.tensor([1, 3])] == 0).all()
    assert (second[torch.tensor([2, 3])] == 0).all()
    assert len(first) == ROWS
