"""Every strategy: exactly which weights move, and that plain layers are left behind which compute the same."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.testing import assert_close
from walks import CLASSES, RECIPE, make_run, shake, walk

import mmpt
from mmpt.config import component, find_parts
from mmpt.errors import CheckpointError, ConfigError
from mmpt.finetune import Classifier, load_adapter, save_adapter
from mmpt.finetune.examples import examples_of
from mmpt.finetune.model import plain_model
from mmpt.finetune.rows import Rows
from mmpt.finetune.strategies import Strategy
from mmpt.finetune.strategies.gradient_mask import largest

STRATEGIES = sorted(find_parts("mmpt.finetune.strategies", Strategy))


@pytest.fixture(scope="module")
def encoder(run):
    return mmpt.load(run)


@pytest.fixture(scope="module")
def fits(encoder, shards):
    """A short fit of each."""
    found = {}
    for name in STRATEGIES:
        settings = {"skip": 1} if name == "mask_tuning" else {}
        task = Classifier(encoder, label="place", inputs=["image"])
        strategy = component(Strategy, name, **settings)
        found[name] = task.fit(shards, strategy=strategy, epochs=2, batch_size=16, learning_rate=1e-2)
    return found


@pytest.fixture
def changes(encoder, fits):
    """By name, of the backbone: what was added to each weight."""

    def of(name):
        before = dict(encoder.backbone.named_parameters())
        after = dict(fits[name].task.model.backbone.named_parameters())
        assert list(before) == list(after)  # nothing wrapped is left
        return {key: (after[key] - before[key]).detach() for key in before}

    return of


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_trains_and_its_task_is_plain(fits, name):
    result = fits[name]
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    assert 0 < result.trained <= result.parameters
    assert result.strategy == name
    assert all(type(m).__module__.startswith(("torch.nn", "timm", "mmpt")) for m in result.task.model.modules())
    assert not any(hasattr(m, "parametrizations") for m in result.task.model.modules())


def moved(changes):
    return {name for name, change in changes.items() if change.any()}


def test_full_moves_all_that_the_inputs_reach(changes):
    names = moved(changes("full"))
    assert {name for name in changes("full") if name.startswith("trunk.blocks")} <= names | {
        name for name in changes("full") if name.endswith("bias")
    }
    assert any(name.startswith("encoders.image") for name in names)
    assert not any(name.startswith("encoders.text") for name in names)


@pytest.mark.parametrize("name", ["linear_probe", "attentive_probe"])
def test_probes_leave_the_backbone_to_the_last_bit(changes, fits, name):
    assert moved(changes(name)) == set()
    head = fits[name].task.model.objective.head
    assert (type(head.pool).__name__ == "AttentionPool") == (name == "attentive_probe")
    assert fits[name].trained == sum(p.numel() for p in head.parameters())


def test_norm_only_moves_norms(changes, encoder):
    norms = {
        f"{name}.{part}"
        for name, module in encoder.backbone.named_modules()
        if isinstance(module, nn.LayerNorm) and not name.startswith("encoders.text")
        for part in ("weight", "bias")
    }
    assert moved(changes("norm_only")) == norms


def test_lora_changes_linear_layers_of_the_trunk_by_no_more_than_its_rank(encoder, shards):
    task = Classifier(encoder, label="place", inputs=["image"])
    task.fit(shards, strategy=component(Strategy, "lora", rank=2), epochs=1, batch_size=16, learning_rate=3e-2)
    before = dict(encoder.backbone.named_parameters())
    for name, after in task.model.backbone.named_parameters():
        change = (after - before[name]).detach()
        if change.any():
            assert name.startswith("trunk.blocks")
            assert name.endswith("weight")
            assert torch.linalg.matrix_rank(change, rtol=1e-4) <= 2
    assert moved({n: after.detach() - before[n] for n, after in task.model.backbone.named_parameters()})


def test_mask_tuning_keeps_weights_or_zeroes_them(encoder, fits, changes):
    before, after = (dict(b.named_parameters()) for b in (encoder.backbone, fits["mask_tuning"].task.model.backbone))
    names = moved(changes("mask_tuning"))
    assert names
    for name in names:
        assert name.startswith("trunk.blocks.1.")  # the lowest block is left alone
        assert name.endswith("weight")
        assert ((after[name] == 0) | (after[name] == before[name])).all()


def test_an_adapter_has_a_bit_a_weight_and_tasks_switch_on_one_encoder(encoder, fits, tmp_path):
    fitted = fits["mask_tuning"].task
    mine, other = (save_adapter(fits[name].task, tmp_path / name) for name in ("mask_tuning", "linear_probe"))
    sizes = {name: value for name, value in load_file(mine).items() if name.startswith("kept.")}
    assert sizes
    for name, bits in sizes.items():
        assert len(bits) == -(-encoder.backbone.get_parameter(name.removeprefix("kept.")).numel() // 8)
    before = {name: value.clone() for name, value in encoder.backbone.state_dict().items()}
    for file, whole in ((mine, fitted), (other, fits["linear_probe"].task), (mine, fitted)):
        task = load_adapter(file, encoder)
        wanted = whole.model.state_dict()
        assert all(torch.equal(value, wanted[name]) for name, value in task.model.state_dict().items())
        assert task.facts == whole.facts
    assert all(torch.equal(value, before[name]) for name, value in encoder.backbone.state_dict().items())


def test_what_is_no_adapter_or_of_another_encoder_is_refused(encoder, fits, shards, tmp_path):
    with pytest.raises(ConfigError, match="has other weights than before, not only zeros; save the whole task"):
        save_adapter(fits["full"].task, tmp_path / "full")
    assert not (tmp_path / "full").exists()
    (tmp_path / "damaged").write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="is no adapter that save_adapter wrote"):
        load_adapter(tmp_path / "damaged", encoder)
    save_adapter(fits["mask_tuning"].task, tmp_path / "mine")
    run = make_run(tmp_path / "other", shards)
    shake(run)
    with pytest.raises(ConfigError, match="is of an encoder with other weights"):
        load_adapter(tmp_path / "mine", mmpt.load(run))


def test_mask_tuning_begins_with_the_stated_share_off_and_passes_the_gradient_straight(encoder):
    task = Classifier(encoder, label="place", inputs=["image"])
    task.facts = {"classes": ["a", "b"], "counts": [1, 1]}
    model = plain_model(task)
    strategy = component(Strategy, "mask_tuning", off=0.25).build()
    strategy.prepare(model, encoder)
    layer = model.backbone.trunk.blocks[0].feedforward.mlp.fc1
    plain, scores = layer.parametrizations.weight.original, layer.parametrizations.weight[0].scores
    assert (layer.weight == 0).sum() == plain.numel() // 4
    effective = layer.weight
    effective.retain_grad()
    (effective * torch.randn_like(effective)).sum().backward()
    assert_close(scores.grad, effective.grad * plain)
    assert plain.grad is None


def test_masked_gradients_are_the_largest_ones():
    gradient = torch.randn(13, 7)
    masked = largest(0.2, gradient)
    assert (masked != 0).sum() == int(0.2 * 91)
    assert gradient.abs()[masked == 0].max() <= gradient.abs()[masked != 0].min()
    assert torch.equal(masked[masked != 0], gradient[masked != 0])
    assert torch.equal(largest(1.0, gradient), gradient)
    assert (largest(0.001, torch.ones(9)) != 0).sum() == 1


def test_keeping_all_gradients_is_full_fine_tuning(encoder, shards):
    weights = []
    for strategy in (component(Strategy, "full"), component(Strategy, "gradient_mask", keep=1.0)):
        task = Classifier(encoder, label="place", inputs=["image"])
        task.fit(shards, strategy=strategy, epochs=1, batch_size=32)
        weights.append(task.model.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_lower_layers_learn_more_slowly(encoder):
    task = Classifier(encoder, label="place", inputs=["image"])
    task.facts = {"classes": ["a", "b"], "counts": [1, 1]}
    scales = component(Strategy, "full", layer_decay=0.5).build().scales(plain_model(task))
    assert scales["backbone.trunk.blocks.1.attention.qkv.weight"] == 0.5
    assert scales["backbone.trunk.blocks.0.norm1.bias"] == 0.25
    assert {s for n, s in scales.items() if n.startswith("backbone.encoders.") or "stream_embedding" in n} == {0.125}
    assert scales["backbone.trunk.norm.weight"] == 0.5
    assert not any(name.startswith("objective.") for name in scales)


def test_a_mask_of_gradients_is_refused_on_several_ranks(encoder, shards, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="strategy 'gradient_mask' works on one rank, and there are 2"):
        Classifier(encoder, label="place").fit(shards, strategy="gradient_mask")


def two_losses(encoder, **settings):
    """A model under `auxiliary`, and a batch of it."""
    task = Classifier(encoder, label="place", inputs=["image"])
    task.facts = {"classes": list(CLASSES), "counts": [1, 1]}
    model = plain_model(task, 1)
    component(Strategy, "auxiliary", **settings).build().prepare(model, encoder)
    samples = [{"image": walk(number)["image"]} for number in range(6)]
    labels = [task.read(walk(number)["labels"]["place"]) for number in range(6)]
    return model.eval(), Rows(task, examples_of(samples, task.inputs, label=None, split="train"), labels).batch(
        range(6)
    )


def gradients(model, losses, hidden):
    model.zero_grad()
    sum(loss.total / hidden[name].denominator for name, loss in losses.items()).backward()
    return {n: p.grad.clone() for n, p in model.backbone.named_parameters() if p.grad is not None}


def test_the_gradient_is_that_of_the_task_and_the_weighted_one_of_the_masked_loss(encoder):
    model, batch = two_losses(encoder, start=0.2, end=0.1)
    hidden = model.hide(batch, 0.5)
    assert set(hidden) == {"task", "image"}
    both = gradients(model, model(batch, hidden, 0.5).losses, hidden)
    task = gradients(model, model.objective.task(model.backbone, batch, hidden, 0.5).losses, hidden)
    own = {"image": hidden["image"]}
    masked = gradients(model, model.objective.masked(model.backbone, batch, own, 0.5).losses, own)
    weight = (0.2 * 0.1) ** 0.5  # half-way down an exponential
    for name, gradient in both.items():
        assert_close(gradient, task.get(name, 0.0) + weight * masked.get(name, 0.0), rtol=1e-5, atol=1e-7)
    assert [model.objective.weight(progress) for progress in (0.0, 1.0)] == pytest.approx([0.2, 0.1])


def test_a_masked_loss_of_weight_0_changes_not_a_bit(encoder, shards):
    weights = []
    for strategy in (component(Strategy, "full"), component(Strategy, "auxiliary", start=0.0, end=0.0)):
        task = Classifier(encoder, label="place", inputs=["image"])
        task.fit(shards, strategy=strategy, epochs=1, batch_size=32)
        weights.append(task.model.state_dict())
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_the_auxiliary_loss_keeps_the_encoder_good_at_its_masked_loss(encoder, shards):
    losses = {}
    for name in ("full", "auxiliary"):
        task = Classifier(encoder, label="coin", inputs=["image"])
        settings = {"start": 1.0, "end": 1.0} if name == "auxiliary" else {}
        task.fit(shards, strategy=component(Strategy, name, **settings), epochs=4, batch_size=16, learning_rate=1e-2)
        model, batch = two_losses(encoder)
        model.backbone.load_state_dict(task.model.backbone.state_dict())
        hidden = model.hide(batch, 0.0)
        losses[name] = float(model(batch, hidden, 0.0).metrics["image/loss"][0])
    assert losses["auxiliary"] < losses["full"]


@pytest.fixture
def softened(tmp_path, shards):
    """A run with soft labels, and the run that says them."""
    teacher = make_run(tmp_path / "teacher", shards)
    text = RECIPE.replace("token_ids}", f"token_ids, soft_labels: {{type: frozen_run, run: {teacher}}}}}")
    return make_run(tmp_path / "softened", shards, text=text), teacher


def classified(run, shards, **settings):
    task = Classifier(mmpt.load(run), label="place", inputs=["text"])
    return task.fit(shards, strategy="auxiliary", epochs=1, batch_size=64, **settings)


def test_an_auxiliary_loss_has_the_soft_labels_of_its_run(softened, shards):
    fitted = classified(softened[0], shards)
    assert fitted.history[-1]["text/soft_divergence"] > 0
    assert not any("soft" in name for name in fitted.task.model.state_dict())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda teacher: teacher.rename(teacher.with_name("moved")),
            "can't be used: .*teacher: there is no recipe.yaml",
        ),
        (shake, "weights of .*teacher are not the ones .* or use strategy 'full'"),
    ],
)
def test_soft_labels_that_can_not_be_had_again_are_refused_and_nothing_is_left(
    softened, shards, tmp_path, change, sentence
):
    run, teacher = softened
    change(teacher)
    with pytest.raises(ConfigError, match=f"'auxiliary' trains by the objective of .*softened as well: .*{sentence}"):
        classified(run, shards, out=tmp_path / "fit")
    assert not (tmp_path / "fit").exists()
