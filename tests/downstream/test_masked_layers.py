"""Layers whose weights are kept or left out: by a threshold on a pretrained encoder, by rank in a fitted task."""

from copy import copy

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from walks import backward, make_run, shake, unfitted, walk

import mmpt
from mmpt.cli import main
from mmpt.config import component
from mmpt.errors import CheckpointError, ConfigError, DataError
from mmpt.finetune import Classifier, load_adapter, save_adapter
from mmpt.finetune import load as load_task
from mmpt.finetune.kept import LargestScores
from mmpt.finetune.strategies import Strategy
from mmpt.settings import OptimizerSettings
from mmpt.training.optimizer import optimizer_for

QUICK = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def encoder(run):
    return mmpt.load(run)


def classifier(encoder):
    return Classifier(encoder, label="place", inputs=["image"])


@pytest.fixture(scope="module")
def tuned(encoder, shards):
    """A task of `mask_tuning`."""
    task = classifier(encoder)
    return task.fit(shards, strategy=component(Strategy, "mask_tuning", skip=1), **QUICK).task


@pytest.fixture(scope="module")
def fitted(encoder, shards):
    """A task of `full`."""
    return classifier(encoder).fit(shards, strategy="full", **QUICK)


@pytest.fixture(scope="module")
def folder(fitted, tmp_path_factory):
    """The same, saved."""
    return fitted.save(tmp_path_factory.mktemp("tasks") / "fitted")


def weights(task):
    return task.model.state_dict()


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


# ---- by a threshold


def test_mask_tuning_keeps_weights_or_zeroes_them(encoder, tuned):
    before, after = encoder.backbone.state_dict(), tuned.model.backbone.state_dict()
    names = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert names
    for name in names:
        assert name.startswith("trunk.blocks.1.")  # the lowest block is left alone
        assert name.endswith("weight")
        assert ((after[name] == 0) | (after[name] == before[name])).all()


def test_mask_tuning_begins_with_the_stated_share_off_and_passes_the_gradient_straight(encoder):
    model, _ = unfitted(encoder)
    component(Strategy, "mask_tuning", off=0.25).build().prepare(model, encoder)
    layer = model.backbone.trunk.blocks[0].feedforward.mlp.fc1
    plain, scores = layer.parametrizations.weight.original, layer.parametrizations.weight[0].scores
    assert (layer.weight == 0).sum() == plain.numel() // 4
    effective = layer.weight
    effective.retain_grad()
    (effective * torch.randn_like(effective)).sum().backward()
    assert_close(scores.grad, (effective.grad * plain).flatten(), rtol=0, atol=0)
    assert plain.grad is None


def test_scores_do_not_decay_and_the_head_has_a_rate_of_its_own(encoder):
    model, _ = unfitted(encoder)
    strategy = component(Strategy, "mask_tuning", head_scale=3.0).build()
    strategy.prepare(model, encoder)
    settings = OptimizerSettings(learning_rate=1e-3, weight_decay=0.1)
    groups = optimizer_for(model, settings, strategy.scales(model)).param_groups
    found = {id(p): (group["weight_decay"], group["lr_scale"]) for group in groups for p in group["params"]}
    named = {name: found[id(p)] for name, p in model.named_parameters() if id(p) in found}
    assert {own for name, own in named.items() if name.endswith("scores")} == {(0.0, 1.0)}
    assert {own for name, own in named.items() if name.startswith("objective.")} == {(0.1, 3.0), (0.0, 3.0)}
    assert len(named) == 2 * 4 + 2


# ---- by rank


@pytest.mark.parametrize("share", [0.9, 0.5, 0.37, 1.0])
def test_in_every_layer_exactly_the_stated_number_is_off_at_every_step(encoder, share):
    model, batch = unfitted(encoder)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    component(Strategy, "mask_finetuning", kept=share).build().prepare(model, encoder)
    scores = [p for p in model.parameters() if p.requires_grad]
    names = ("attention.qkv", "attention.proj", "feedforward.mlp.fc1", "feedforward.mlp.fc2")
    layers = [block.get_submodule(name) for block in model.backbone.trunk.blocks for name in names]
    assert len(scores) == len(layers) == 8
    optimizer, masks = torch.optim.AdamW(scores, lr=0.1), []
    for _ in range(4):
        masks.append([layer.weight != 0 for layer in layers])
        assert all((~mask).sum() == int((1 - share) * mask.numel()) for mask in masks[-1])
        backward(model, model(batch, hidden := model.hide(batch, 0.0), 0.0).losses, hidden)
        optimizer.step()
    assert any(not torch.equal(*both) for both in zip(masks[0], masks[-1], strict=True)) == (share < 1)
    for name, value in model.state_dict().items():
        own = name.replace("parametrizations.weight.original", "weight")
        assert name.endswith("scores") or torch.equal(value, before[own])


def test_a_mask_knows_no_sign_and_no_scale_of_its_scores_and_ties_change_no_count():
    weight = torch.randn(13, 11)
    kept = LargestScores(weight, 0.7)
    before, scores = kept(weight), kept.scores.detach().clone()
    for factor in (-1.0, 8.0, -0.125, 1e-3):
        kept.scores.data = factor * scores
        assert torch.equal(kept(weight), before)
    kept.scores.data = torch.ones_like(scores)
    assert (kept(weight) == 0).sum() == int((1 - 0.7) * 143)


def test_the_gradient_of_a_score_is_that_of_the_mask_times_its_sign():
    weight = torch.randn(5, 6)
    kept = LargestScores(weight, 0.5)
    effective = kept(weight)
    effective.retain_grad()
    (effective * torch.randn(5, 6)).sum().backward()
    assert torch.equal(kept.scores.grad.view(5, 6), effective.grad * weight * kept.scores.detach().sign().view(5, 6))


def masked(task, shards, **settings):
    return task.fit(shards, strategy=component(Strategy, "mask_finetuning", **settings), **QUICK).task


def test_keeping_everything_is_the_fitted_task_to_the_last_bit(fitted, shards):
    assert same(weights(masked(copy(fitted.task), shards, kept=1.0)), weights(fitted.task))


def test_only_the_chosen_part_of_the_chosen_blocks_is_masked_and_the_head_stays(fitted, shards):
    task = masked(copy(fitted.task), shards, kept=0.8, part="attention", blocks=[1, 1])
    before, after = weights(fitted.task), weights(task)
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {f"backbone.trunk.blocks.1.attention.{name}.weight" for name in ("qkv", "proj")}
    for name in changed:
        off = after[name] == 0
        assert off.sum() == int((1 - 0.8) * off.numel())
        assert torch.equal(after[name][~off], before[name][~off])


def test_a_fit_goes_on_with_the_task_in_memory_from_its_folder_and_by_command(fitted, folder, shards, tmp_path):
    in_memory = weights(masked(copy(fitted.task), shards))
    assert not same(in_memory, weights(fitted.task))
    assert same(weights(masked(load_task(folder), shards)), in_memory)
    recipe = tmp_path / "masks.yaml"
    recipe.write_text(
        f"encoder: {folder}\ntask: {{type: classifier, label: place, inputs: [image]}}\ntrain: {shards}\n"
        "strategy: mask_finetuning\nfit: {epochs: 1, batch_size: 16, learning_rate: 1e-2}\n",
        encoding="utf-8",
    )
    assert main(["finetune", str(recipe), "--out", str(tmp_path / "out")]) == 0
    assert same(weights(load_task(tmp_path / "out")), in_memory)


def test_other_strategies_begin_with_a_fresh_head_however_often_a_task_is_fitted(encoder, shards):
    task = classifier(encoder)
    once = weights(task.fit(shards, strategy="linear_probe", **QUICK).task)
    assert same(weights(task.fit(shards, strategy="linear_probe", **QUICK).task), once)


def test_classes_stay_those_of_the_fitted_task(fitted, shards):
    task, walks = copy(fitted.task), [walk(number) for number in range(40)]
    seen = [{"image": own["image"], "place": own["labels"]["place"]} for own in walks]
    sea = [sample for sample in seen if sample["place"] == "sea"]
    task.fit(sea, seen, strategy=component(Strategy, "mask_finetuning", kept=1.0), epochs=1)
    assert task.facts == fitted.task.facts
    assert task.predict(seen) == fitted.task.predict(seen)
    with pytest.raises(DataError, match="moor"):
        task.fit([seen[0] | {"place": "moor"}], seen, strategy="mask_finetuning")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"kept": 0.0}, "kept: expected a share above 0 and up to 1, got 0.0"),
        ({"blocks": [1, 0]}, "blocks: expected the first and the last, from 0, got 1 and 0"),
        ({"blocks": [1, 2]}, "blocks: expected some of 0 to 1, got 1 and 2"),
    ],
)
def test_settings_that_make_no_sense_are_refused(fitted, shards, settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        masked(copy(fitted.task), shards, **settings)


def test_what_was_never_fitted_is_refused_and_nothing_is_left(encoder, folder, shards, tmp_path):
    with pytest.raises(ConfigError, match=r"'mask_finetuning' goes on with a fitted task, and .* holds none; fit with"):
        classifier(encoder).fit(shards, strategy="mask_finetuning", out=tmp_path / "out")
    other = Classifier(mmpt.load(folder), label="coin", inputs=["image"])
    with pytest.raises(
        ConfigError, match=r"goes on with the task of .*fitted, Classifier of place from image; give it"
    ):
        other.fit(shards, strategy="mask_finetuning", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_mask_tuning_without_a_block_left_is_refused(encoder, shards):
    with pytest.raises(ConfigError, match="no linear layer to mask from block 2 on; the trunk's blocks are 0 to 1"):
        classifier(encoder).fit(shards, strategy=component(Strategy, "mask_tuning", skip=2))


# ---- a bit a weight


def test_an_adapter_has_a_bit_a_weight_and_tasks_switch_on_one_encoder(encoder, tuned, shards, tmp_path):
    probe = classifier(encoder)
    probe.fit(shards, strategy="linear_probe", **QUICK)
    mine, other = save_adapter(tuned, tmp_path / "masks"), save_adapter(probe, tmp_path / "probe")
    sizes = {name: value for name, value in load_file(mine).items() if name.startswith("kept.")}
    assert sizes
    for name, bits in sizes.items():
        assert len(bits) == -(-encoder.backbone.get_parameter(name.removeprefix("kept.")).numel() // 8)
    before = {name: value.clone() for name, value in encoder.backbone.state_dict().items()}
    for file, whole in ((mine, tuned), (other, probe), (mine, tuned)):
        task = load_adapter(file, encoder)
        assert same(weights(task), weights(whole))
        assert task.facts == whole.facts
    assert same(encoder.backbone.state_dict(), before)


def test_masks_on_a_fitted_task_are_an_adapter_of_that_task(fitted, folder, shards, tmp_path):
    task = masked(load_task(folder), shards)
    file = save_adapter(task, tmp_path / "masks")
    assert len([name for name in load_file(file) if name.startswith("kept.")]) == 8
    assert same(weights(load_adapter(file, mmpt.load(folder))), weights(task))
    with pytest.raises(ConfigError, match="has other weights than before, not only zeros; save the whole task"):
        save_adapter(masked(copy(fitted.task), shards), tmp_path / "in_memory")  # its encoder is the pretrained one


def test_what_is_no_adapter_or_of_another_encoder_is_refused(encoder, tuned, fitted, shards, tmp_path):
    with pytest.raises(ConfigError, match="has other weights than before, not only zeros; save the whole task"):
        save_adapter(fitted.task, tmp_path / "full")
    assert not (tmp_path / "full").exists()
    (tmp_path / "damaged").write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="is no adapter that save_adapter wrote"):
        load_adapter(tmp_path / "damaged", encoder)
    save_adapter(tuned, tmp_path / "mine")
    run = make_run(tmp_path / "other", shards)
    shake(run)
    with pytest.raises(ConfigError, match="is of an encoder with other weights"):
        load_adapter(tmp_path / "mine", mmpt.load(run))
