"""The commands of docs/weights.md run as they stand there; a run that began elsewhere goes on as any other."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from mmpt.cli import main
from mmpt.config import parse_settings
from mmpt.data.writer import ShardWriter
from mmpt.foreign.donor import WeightsWarning
from mmpt.settings import Recipe
from tests.downstream.walks import prose
from tests.foreign.models import loaded, made
from tests.running import several, weights

PAGE = Path(__file__).parents[2] / "docs" / "weights.md"
RECIPE = """
streams: {text: {type: text, max_length: 40}}
trunk: {type: transformer, width: 24, depth: 2, heads: 3, norm: post, norm_entry: true, norm_eps: 1e-12, FEED}
objective:
  type: masked_prediction
  streams: {text: {masking: {ratio: 0.3}, corruption: replace, predictor: tied, target: token_ids}}
data: {sources: {prose: {shards: shards/text, streams: [text]}}, batch_size: 8, workers: 0}
training: {steps: 2, save_every: 1, log_every: 1, optimizer: {learning_rate: 1e-3}}
""".replace("FEED", "feedforward: {type: dense, ratio: 2.0}")


@pytest.fixture(scope="module")
def place(tmp_path_factory, tokenizers):
    """A folder in which the page's names are there."""
    folder = tmp_path_factory.mktemp("page")
    made("bert with a head", folder / "bert-folder", tokenizers("bert"), intermediate_size=48)
    with ShardWriter(folder / "shards" / "text", {"text": "txt"}, tokenizer=folder / "bert-folder") as writer:
        for number in range(40):
            writer.write({"text": prose(number % 2, number)})
    (folder / "text.yaml").write_text(RECIPE, encoding="utf-8")
    return folder


def blocks(kind):
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(verb):
    return re.findall(rf"^    mmpt ({verb} .*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def test_python_of_the_page_runs(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    first, second = blocks("python")
    names: dict[str, Any] = {}
    exec(first, names)
    assert capsys.readouterr().out.startswith("BERT (")
    peer = timm.create_model("vit_tiny_patch16_224")
    save_file({name: value.contiguous() for name, value in peer.state_dict().items()}, place / "x.safetensors")
    with pytest.warns(WeightsWarning, match="14 x 14 positions of .* were interpolated to 16 x 16"):
        exec(second, names)


def test_commands_of_the_page_run(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    lines = [*commands("embed"), *commands("export"), *commands("describe")]
    assert len(lines) == 3
    for line in lines:
        assert main(line.split()) == 0, line
    said = capsys.readouterr().out
    assert "begins with" in said
    assert "latents differ by at most 0" in said
    ours, theirs = (loaded(folder) for folder in ("bert-run", "bert-folder"))
    mine = ours.backbone.state_dict()
    assert all(torch.equal(mine[name], value) for name, value in theirs.backbone.state_dict().items())


def test_every_init_from_of_the_page_can_stand_in_a_recipe():
    (block,) = blocks("yaml")
    lines = block.splitlines()
    assert len(lines) == 4
    for line in lines:
        recipe = parse_settings(f"{RECIPE}\n{line}\n", [], Recipe)
        assert recipe.beginning is not None


@pytest.mark.slow
def test_a_run_that_began_elsewhere_goes_on_to_the_same_weights(place, monkeypatch):
    monkeypatch.chdir(place)
    (line,) = commands("pretrain")
    _, recipe, _, run, override = line.split()
    again = "runs/again"
    several(place, [[recipe, run, [override], ""], [recipe, again, [override], run]])
    first, second = weights(place / run), weights(place / again)
    assert all(torch.equal(second[name], value) for name, value in first.items())
    told = json.loads((place / run / "init_from.json").read_text(encoding="utf-8"))
    assert told["source"] == "bert-folder"
    assert told["fresh"] == []
    assert "backbone.trunk.entry.weight" in told["loaded"]
    assert "pooler" not in "".join(told["loaded"])
    log = (place / again / "log.txt").read_text(encoding="utf-8")
    assert "begins with" not in log.partition("going on from step 1")[2]
