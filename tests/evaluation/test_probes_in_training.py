"""A probe while a run goes: what it says, and that the run is the same byte for byte as without it."""

import json
from pathlib import Path

import pytest
import torch
from running import build_small_shards, several, write_recipe

from mmpt.build import build_modalities, build_model, facts_of
from mmpt.config import load_settings
from mmpt.downstream.encoder import load
from mmpt.errors import ConfigError
from mmpt.evaluation.online_probe import OnlineProbe, OnlineProbes
from mmpt.report import write_report
from mmpt.settings import OnlineProbeSettings, Recipe
from mmpt.training.checkpoint import latest
from mmpt.training.ledger import read_lines

SHORT = ["training.steps=6", "training.save_every=3", "training.log_every=2", "training.optimizer.warmup_steps=1"]
TAUGHT = [
    "objective.streams.image.corruption=replace",
    "objective.streams.image.predictor=mlp",
    "objective.streams.image.target={type: teacher_latents, layers: 1}",
]
DIVIDED = ["trunk.feedforward={type: routed_experts, experts: 2, k: 1}", "training.ep_size=2"]


def stage(number):
    return [f"deepspeed.zero_optimization.stage={number}"]


def bytes_of(run):
    newest = latest(run / "checkpoints")
    return {name: (newest / name).read_bytes() for name in ("model.safetensors", "optimizer.safetensors", "state.json")}


def scores(run):
    return [line for line in read_lines(run / "metrics.jsonl") if "probe/emoji/accuracy" in line]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("probed")


@pytest.fixture(scope="module")
def recipe(folder):
    return write_recipe(folder, build_small_shards(folder))


@pytest.fixture(scope="module")
def probed(folder):
    own = f"{{data: {folder}/images, label: label, streams: [image], every: 4, max_samples: 24}}"
    return [f"training.probes={{emoji: {own}}}"]


@pytest.fixture(scope="module")
def alone(folder, recipe, probed):
    """Runs of one process: without, with, and with after a stop."""
    without, with_it, again = (folder / name for name in ("without", "with", "again"))
    taught = [*SHORT, *TAUGHT]
    jobs = [
        [recipe, without, taught, None],
        [recipe, with_it, [*taught, *probed], None],
        [recipe, again, [*taught, *probed], with_it],
    ]
    several(folder, [[str(job[0]), str(job[1]), job[2], job[3] and str(job[3])] for job in jobs])
    return without, with_it, again


def test_a_run_is_the_same_byte_for_byte_with_and_without_probes(alone):
    without, with_it, _ = alone
    assert bytes_of(without) == bytes_of(with_it)
    figures = [[line for line in read_lines(run / "metrics.jsonl") if "source" in line] for run in (without, with_it)]
    for one, other in zip(*figures, strict=True):
        assert {n: v for n, v in one.items() if n.endswith("/loss")} == {
            n: v for n, v in other.items() if n.endswith("/loss")
        }


def test_it_looks_before_the_first_step_at_every_so_many_and_after_the_last(alone):
    lines = scores(alone[1])
    assert [line["done"] for line in lines] == [0, 4, 6]
    for line in lines:
        assert 0 <= line["probe/emoji/low"] <= line["probe/emoji/accuracy"] <= line["probe/emoji/high"] <= 1
        assert 0 < line["probe/emoji/commonest"] <= 1


def test_a_run_that_goes_on_has_the_same_weights_and_the_same_figures(alone):
    _, with_it, again = alone
    assert bytes_of(with_it) == bytes_of(again)
    assert scores(with_it) == scores(again)


def test_the_figures_are_those_of_the_saved_weights(alone, folder):
    """What a probe says after the last step is what it says of the checkpoint, loaded as for downstream work."""
    run = alone[1]
    recipe = load_settings(run / "recipe.yaml", [], Recipe)
    encoder = load(run, device="cpu")
    probe = OnlineProbe("emoji", recipe.training.probes["emoji"], encoder.modalities, recipe.training.seed)
    last = scores(run)[-1]
    assert probe.scores(encoder) == {name: value for name, value in last.items() if name.startswith("probe/")}


def test_the_report_and_tensorboard_have_them(alone):
    html = write_report(alone[1]).read_text(encoding="utf-8")
    assert "probe emoji: label, linear accuracy, split validation" in html
    events = b"".join(path.read_bytes() for path in alone[1].glob("events.*"))
    assert b"probe/emoji/accuracy" in events
    assert b"probe/emoji/low" in events


@pytest.mark.slow
def test_two_ranks_are_the_same_too_whatever_zero_shards(folder, recipe, probed):
    jobs = []
    for name, settings in (("three", stage(3)), ("divided", [*stage(2), *DIVIDED])):
        jobs += [[str(recipe), str(folder / f"{name} {which}"), [*SHORT, *settings, *more], None]
                 for which, more in (("without", []), ("with", probed))]  # fmt: skip
    several(folder, jobs, ranks=2)
    for name in ("three", "divided"):
        assert bytes_of(folder / f"{name} without") == bytes_of(folder / f"{name} with"), name
        assert [line["done"] for line in scores(folder / f"{name} with")] == [0, 4, 6]
    first = scores(folder / "three with")[0]
    assert first["probe/emoji/commonest"] > 0


# ---- without an engine


@pytest.fixture
def built(recipe, probed):
    settings = load_settings(recipe, [*SHORT, *probed], Recipe)
    modalities = build_modalities(settings.streams, facts_of(settings))
    return settings, modalities


def test_neither_torch_s_generator_nor_the_model_is_touched(built):
    settings, modalities = built
    model = build_model(settings, modalities).train()
    before, state = torch.random.get_rng_state(), {name: value.clone() for name, value in model.state_dict().items()}
    modes = [part.training for part in model.modules()]
    probes = OnlineProbes(settings, modalities)
    first = probes.look(dict(model.named_parameters()) | model.state_dict(), 0, torch.device("cpu"))
    assert probes.look(model.state_dict(), 0, torch.device("cpu")) == first
    assert (torch.random.get_rng_state() == before).all()
    assert modes == [part.training for part in model.modules()]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert probes.look(model.state_dict(), 1, torch.device("cpu")).figures == {}


def test_weights_that_are_not_finite_have_no_score_and_stop_nothing(built):
    settings, modalities = built
    weights = build_model(settings, modalities).state_dict()
    weights["backbone.trunk.norm.weight"].fill_(float("nan"))
    looked = OnlineProbes(settings, modalities).look(weights, 0, torch.device("cpu"))
    assert json.dumps(looked.figures["probe/emoji/accuracy"]) == "NaN"
    assert looked.troubles == []


def test_data_that_became_unreadable_gets_a_sentence_and_stops_nothing(built, monkeypatch, tmp_path):
    settings, modalities = built
    probes = OnlineProbes(settings, modalities)
    probes.probes[0].reader.shards = ["gone.tar"] * len(probes.probes[0].reader.shards)
    looked = probes.look(build_model(settings, modalities).state_dict(), 0, torch.device("cpu"))
    assert looked.figures == {}
    assert "probe emoji: " in looked.troubles[0]
    assert "gone.tar" in looked.troubles[0]
    assert looked.troubles[0].endswith("the run goes on without this figure")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"label": "lable"}, r"training\.probes\.x: .*no sample has a label 'lable'; did you mean 'label'\?"),
        ({"streams": ("sound",)}, r"training\.probes\.x: streams: the recipe has no 'sound'"),
        ({"splits": ("train", "dev")}, r"training\.probes\.x: .*there is no split 'dev'"),
        ({"data": Path("nowhere")}, r"training\.probes\.x: .*no manifest"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_run(built, folder, settings, said):
    _, modalities = built
    given = {"data": folder / "images", "label": "label", **settings}
    with pytest.raises(ConfigError, match=said):
        OnlineProbe("x", OnlineProbeSettings(**given), modalities, 0)


def test_settings_are_checked(recipe):
    with pytest.raises(ConfigError, match="every: expected at least 1, got 0"):
        load_settings(recipe, ["training.probes={a: {data: x, label: y, every: 0}}"], Recipe)
