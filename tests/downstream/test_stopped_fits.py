"""A signal ends a fit between two batches, and the same command goes on there; a terminal sees how far an epoch is."""

import io
import json
import signal

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from stopped import Stopped
from walks import walk

import mmpt
from mmpt.cli import main
from mmpt.finetune import Classifier

RECIPE = """
encoder: RUN
task: {type: stopped.Stopped, label: place, inputs: [text]}
train: SHARDS/train
fit: {epochs: 2, batch_size: 40, learning_rate: 1e-2}
"""


@pytest.fixture
def heard():
    """Signals that nobody else took; they would end the process otherwise."""
    found = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: found.append(number))
    yield found
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def fit(run, shards, tmp_path, monkeypatch):
    recipe = tmp_path / "stopped.yaml"
    recipe.write_text(RECIPE.replace("RUN", str(run)).replace("SHARDS", str(shards)), encoding="utf-8")

    def run_it(name, *settings, at=0):
        monkeypatch.setattr(Stopped, "at", at)
        monkeypatch.setattr(Stopped, "batches", 0)
        return main(["finetune", str(recipe), "--out", str(tmp_path / name), *settings]), tmp_path / name

    return run_it


def outcome(folder):
    (saved,) = (folder / "checkpoints").iterdir()
    history = json.loads((folder / "result.json").read_text(encoding="utf-8"))["history"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["done"] for line in lines] == [1, 2]
    return load_file(saved / "model.safetensors"), [
        {name: value for name, value in epoch.items() if name != "seconds"} for epoch in history
    ]


def test_a_stopped_fit_exits_with_3_and_comes_out_as_one_that_was_not(fit, heard, capsys, tmp_path):
    """There are four batches an epoch; what comes in one is seen before the next."""
    ends = ("in epoch 1 of 2, after batch 2 of 4", "after epoch 1 of 2", "in epoch 2 of 2, after batch 2 of 4")
    for where in ends:
        assert fit("stopped", at=1)[0] == 3
        assert f"stopped by a signal {where}; saved: the same command goes on" in capsys.readouterr().err
        assert not (tmp_path / "stopped" / "task.json").exists()
    (code, folder), (other, straight) = fit("stopped"), fit("straight")
    assert code == other == 0
    (mine, history), (theirs, wanted) = outcome(folder), outcome(straight)
    assert history == wanted
    assert all(torch.equal(value, mine[name]) for name, value in theirs.items())
    assert not heard


def test_masks_on_a_fitted_task_go_on_where_they_were_stopped(fit, heard):
    folder = fit("fitted")[1]
    masks = (f"encoder={folder}", "strategy=mask_finetuning")
    assert fit("stopped", *masks, at=1)[0] == 3
    (mine, history), (theirs, wanted) = (outcome(fit(name, *masks)[1]) for name in ("stopped", "straight"))
    assert history == wanted
    assert all(torch.equal(value, mine[name]) for name, value in theirs.items())
    before = outcome(folder)[0]
    assert any((theirs[name] != value).any() for name, value in before.items())
    assert all(((theirs[name] == value) | (theirs[name] == 0)).all() for name, value in before.items())
    assert not heard


def test_a_result_without_its_task_is_finished_by_the_same_command(fit):
    folder = fit("killed")[1]
    before = outcome(folder)[1]
    (folder / "task.json").unlink()  # it is written last
    assert fit("killed")[0] == 0
    assert (folder / "task.json").exists()
    assert outcome(folder)[1] == before


def test_without_a_folder_signals_are_the_callers(run, shards, heard, monkeypatch):
    monkeypatch.setattr(Stopped, "at", 1)
    monkeypatch.setattr(Stopped, "batches", 0)
    monkeypatch.setattr(Stopped, "handlers", [])
    mine = signal.getsignal(signal.SIGTERM)
    Stopped(mmpt.load(run), label="place", inputs=["text"]).fit(shards, epochs=1, batch_size=200)
    assert heard == [signal.SIGTERM]
    assert set(Stopped.handlers) == {mine}


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_alone_sees_how_far_an_epoch_is(run, terminal):
    rows = [{"text": walk(n)["text"], "place": walk(n)["labels"]["place"]} for n in range(40) if n % 5 != 4]
    page = io.StringIO()
    console = Console(file=page, force_terminal=terminal, width=100, color_system=None)
    task = Classifier(mmpt.load(run), label="place", inputs=["text"])
    task.fit(rows[:24], rows[24:], epochs=1, batch_size=4, console=console)
    assert ("batch 6/6" in page.getvalue()) == terminal
    assert [line for line in page.getvalue().splitlines() if "loss" in line]
