"""Which weights each rule moves, that it moves them as its library does, and what it refuses."""

import pytest
import torch
from timm.optim.lion import Lion
from torch.testing import assert_close

from mmpt.config import component, find_parts, parse_settings, to_plain
from mmpt.errors import ConfigError
from mmpt.model import MaskedModel
from mmpt.objectives import Objective
from mmpt.settings import OptimizerSettings
from mmpt.training.optimizer import check_rule, groups_of, optimizer_for
from mmpt.training.optimizers import Rule

RULES = list(find_parts(Rule.__module__))
STREAMS = {
    "text": {"masking": {"ratio": 0.3}, "corruption": "replace", "predictor": "tied", "target": "token_ids"},
    "image": {
        "masking": {"ratio": 0.75},
        "corruption": "drop",
        "predictor": {"type": "decoder", "width": 16, "depth": 1, "heads": 2},
        "target": "pixels",
    },
}
ROUTED = {"top_layers": 1, "top_feedforward": {"type": "routed_experts", "experts": 2}}
BLOCK = ["attention.qkv", "attention.proj"]
DENSE = ["feedforward.mlp.fc1", "feedforward.mlp.fc2"]
DECODER = "objective.streams.image.predictor.blocks.0"


@pytest.fixture
def model(modalities, backbone_of):
    """Two streams, a decoder and routed experts in the last of two blocks."""
    chosen = {name: modalities[name] for name in ("text", "image")}
    backbone = backbone_of(chosen, **ROUTED)
    return MaskedModel(backbone, component(Objective, "masked_prediction", streams=STREAMS).build(backbone, chosen))


def settings_of(rule, **settings):
    return OptimizerSettings(learning_rate=1e-2, rule=component(Rule, rule), **settings)


def by_update(model, rule):
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {}
    for group in groups_of(model, settings_of(rule), component(Rule, rule).build()):
        found.setdefault(group["update"].name, set()).update(names[parameter] for parameter in group["params"])
    return found


def with_gradients(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator) if parameter.requires_grad else None


@pytest.mark.parametrize("rule", ["adamw", "lion"])
def test_every_weight_is_moved_by_the_one_update_of_the_rule(model, rule):
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert by_update(model, rule) == {rule: trained}


def test_muon_takes_the_matrices_inside_blocks_and_adamw_all_else(model):
    found = by_update(model, "muon")
    blocks = [f"backbone.trunk.blocks.{number}" for number in (0, 1)]
    wanted = {f"{block}.{name}.weight" for block in (*blocks, DECODER) for name in BLOCK}
    wanted |= {f"{block}.{name}.weight" for block in (blocks[0], DECODER) for name in DENSE}
    experts = {name for name in found["muon"] if name.startswith(f"{blocks[1]}.feedforward")}
    assert found["muon"] - experts == wanted
    assert len(experts) == 2 * 2  # two layers of two experts; the gate is a head
    assert not any("gate" in name for name in experts)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert found["muon"] | found["adamw"] == set(trained)
    assert not found["muon"] & found["adamw"]
    assert all(trained[name].ndim == 2 for name in found["muon"])


def test_adamw_is_torchs_over_matrices_that_decay_and_vectors_that_do_not(model):
    first = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
    settings = settings_of("adamw", weight_decay=0.3)
    groups = [
        {"params": [value for value in first.values() if (value.ndim < 2) == single], "weight_decay": decay}
        for single, decay in ((False, 0.3), (True, 0.0))
    ]
    theirs = torch.optim.AdamW(groups, lr=1e-2, betas=settings.betas, eps=settings.eps, fused=True)
    ours = optimizer_for(model, settings)
    for seed in range(2):
        with_gradients(model, seed)
        for name, parameter in model.named_parameters():
            first[name].grad = parameter.grad
        ours.step()
        theirs.step()
    assert all(torch.equal(value, first[name]) for name, value in model.named_parameters())


def test_lion_is_timms(model):
    first = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
    theirs = [Lion([v], lr=1e-2, weight_decay=0.3 * (v.ndim > 1), betas=(0.9, 0.99)) for v in first.values()]
    ours = optimizer_for(model, settings_of("lion", weight_decay=0.3))
    for seed in range(2):
        with_gradients(model, seed)
        for name, parameter in model.named_parameters():
            first[name].grad = parameter.grad
        ours.step()
        [each.step() for each in theirs]
    assert all(torch.equal(value, first[name]) for name, value in model.named_parameters())


def test_a_muon_step_is_the_formula_of_the_papers(model):
    name = "backbone.trunk.blocks.0.attention.qkv.weight"
    weight = model.get_parameter(name)
    before = weight.detach().clone()
    ours = optimizer_for(model, settings_of("muon", weight_decay=0.3))
    momentum = torch.zeros_like(before)
    for seed in range(2):
        with_gradients(model, seed)
        momentum = 0.95 * momentum + 0.05 * weight.grad  # a factor that the norm takes away again
        x = 0.95 * momentum + 0.05 * weight.grad
        x = x / x.norm()
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
        before = before * (1 - 1e-2 * 0.3) - 1e-2 * 0.2 * max(x.shape) ** 0.5 * x
        ours.step()
    rate = 1e-2 * 0.2 * max(before.shape) ** 0.5
    assert_close(weight.detach(), before, rtol=0, atol=0.02 * rate)  # torch's steps are bfloat16


def test_muon_moves_the_others_as_adamw_does(model, modalities):
    names = by_update(model, "muon")["adamw"]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    results = []
    for rule in ("adamw", "muon"):
        model.load_state_dict(state)
        with_gradients(model)
        optimizer_for(model, settings_of(rule)).step()
        results.append({name: value.detach().clone() for name, value in model.named_parameters()})
    assert all(torch.equal(results[0][name], results[1][name]) for name in names)


@pytest.mark.parametrize("rule", RULES)
def test_a_held_step_leaves_weights_and_moments_alone(model, rule):
    optimizer = optimizer_for(model, settings_of(rule))
    with_gradients(model)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer.held = True
    optimizer.step()
    assert not optimizer.state
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    optimizer.held = False
    optimizer.step()
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert not any(torch.equal(value, before[name]) for name, value in trained.items())


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_remembers_what_its_updates_say(model, rule):
    optimizer = optimizer_for(model, settings_of(rule))
    with_gradients(model)
    optimizer.step()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            shaped = {name for name, value in optimizer.state[parameter].items() if value.shape == parameter.shape}
            assert shaped - {"step"} == set(group["update"].moments)


@pytest.mark.parametrize("rule", RULES)
def test_a_share_of_the_learning_rate_makes_a_group_of_its_own(model, rule):
    scales = {name: 0.5 for name, _ in model.named_parameters() if "blocks.0" in name}
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = optimizer_for(model, settings_of(rule), scales).param_groups
    assert {names[p] for group in groups if group["lr_scale"] == 0.5 for p in group["params"]} == set(scales)
    assert len({group["name"] for group in groups}) == len(groups)


def test_a_recipe_without_a_rule_means_adamw():
    settings = parse_settings("learning_rate: 1e-3", [], OptimizerSettings)
    assert to_plain(settings)["rule"] == {"type": "adamw"}
    muon = parse_settings("{learning_rate: 1e-3, rule: {type: muon, momentum: 0.9}}", [], OptimizerSettings)
    assert to_plain(muon)["rule"] == {"type": "muon", "momentum": 0.9, "nesterov": True, "iterations": 5}


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        ("mun", "expected a Rule (adamw, lion, muon), got 'mun'; did you mean 'muon'?"),
        ("{type: muon, momentun: 0.9}", "did you mean 'momentum'?"),
        ("{type: muon, momentum: 1.0}", "momentum: expected a number from 0 to below 1, got 1.0"),
        ("{type: muon, iterations: 0}", "iterations: expected 1 to 99, got 0"),
        ("{type: lion, betas: [0.9, 1.5]}", "betas: expected two numbers from 0 to below 1, got [0.9, 1.5]"),
        ("{type: lion, betas: [0.9]}", "expected 2 values, got 1"),
    ],
)
def test_a_rule_that_can_not_be_is_refused_with_its_place(rule, sentence):
    with pytest.raises(ConfigError) as raised:
        parse_settings(f"learning_rate: 1e-3\nrule: {rule}\n", [], OptimizerSettings, name="own.yaml")
    assert str(raised.value).startswith("own.yaml:2")
    assert sentence in str(raised.value)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_takes_rules_by_element_and_refuses_muon_with_the_choices(stage):
    zero = {"zero_optimization": {"stage": stage}}
    for rule in ("adamw", "lion"):
        check_rule(component(Rule, rule), zero)
    check_rule(component(Rule, "muon"), {})
    with pytest.raises(ConfigError, match=f"stage {stage} leaves .* use stage 0, or the rule adamw or lion$"):
        check_rule(component(Rule, "muon"), zero)


def test_muon_without_a_matrix_to_train_is_refused(model):
    model.backbone.trunk.requires_grad_(False)
    model.objective.streams["image"].predictor.blocks.requires_grad_(False)
    with pytest.raises(ConfigError, match="none of this model's is trained; use adamw"):
        optimizer_for(model, settings_of("muon"))
