"""The benchmarks run, and what they count is right; nothing is said of their speed."""

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from running import build_all_small_shards, environment
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

FOLDER = Path(__file__).parents[1] / "benchmarks"
Rows = list[list[str]]


def run(script: str) -> Rows:
    """The printed table, cell by cell."""
    done = subprocess.run(
        [sys.executable, str(FOLDER / script), "--small", "--repeats", "2"],
        capture_output=True, text=True, env={**environment(), "PYTHONUTF8": "1"}, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


@pytest.fixture(scope="module")
def steps() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)  # as for `python benchmarks/pretrain_step.py`
        yield importlib.import_module("pretrain_step")


@pytest.fixture(scope="module")
def text_sides(steps: ModuleType) -> ModuleType:
    return importlib.import_module(steps.text_contenders.__module__)


@pytest.mark.slow
def test_step_benchmark_prints_equal_losses_and_the_useful_tokens_of_the_same_documents(steps: ModuleType) -> None:
    rows = {(row[0], row[1]): row[2:] for row in run("pretrain_step.py")}
    names = ["mmpt, packed", *(f"transformers, {way}" for way in ("padded", "length-grouped", "chunked"))]
    images = ["mmpt", "transformers, ViTMAE"]
    assert list(rows) == [*(("text", name) for name in names), *(("image /4", name) for name in images)]
    packed, padded = rows["text", names[0]], rows["text", names[1]]
    sizes = steps.SMALL_TEXT
    places = sizes.rows * sizes.longest * sizes.batches
    assert packed[0] == padded[0]
    assert packed[1] == f"{1 - int(packed[0]) / places:.1%}"
    assert rows["image /4", "mmpt"][0] == str(steps.SMALL_IMAGE.images * steps.SMALL_IMAGE.batches)
    for ours, peer in ((packed, padded), (rows["image /4", "mmpt"], rows["image /4", images[1]])):
        assert float(ours[2]) == pytest.approx(float(peer[2]), abs=1e-4)
    assert all(float(row[3]) > 0 for row in rows.values())


@pytest.mark.slow
def test_data_benchmark_prints_every_side_with_all_samples() -> None:
    rows = run("data.py")
    sides = {"pictures": ("mmpt", "webdataset", "datasets")}
    sides |= dict.fromkeys(("speech", "ECG", "labs"), ("mmpt", "webdataset"))
    assert [row[:4] for row in rows] == [
        [what, workers, side, "128"] for what, own in sides.items() for workers in "12" for side in own
    ]
    for row in rows:
        assert float(row[5]) == pytest.approx(float(row[4]) / int(row[1]), abs=1)
        assert float(row[5]) > 0


@pytest.mark.slow
def test_both_sides_of_a_step_get_the_same_documents_with_the_same_tokens_scored(text_sides: ModuleType) -> None:
    ours, padded, grouped, chunked = text_sides.text_contenders(text_sides.SMALL_TEXT, 3)
    for number, (mine, theirs) in enumerate(zip(ours.losses, padded.losses, strict=True)):
        model, batch = mine.args
        content, peer = batch.streams["text"], theirs.args[1]
        inside = peer["attention_mask"].bool()
        assert ours.useful[number] == padded.useful[number] == int(content.valid.sum()) == int(inside.sum())
        scored = model.hide(batch, 0.0)["text"].scored
        truth = peer["labels"][peer["labels"] != text_sides.IGNORED]
        assert torch.equal(truth.sort().values, content.values[scored].sort().values)
        untouched = inside & (peer["labels"] == text_sides.IGNORED)
        assert torch.equal(
            peer["input_ids"][untouched].sort().values, content.values[content.valid & ~scored].sort().values
        )
    assert all(useful < places for useful, places in zip(grouped.useful, grouped.places, strict=True))
    assert chunked.useful == chunked.places


@pytest.mark.slow
def test_flops_counted_from_shapes_are_those_that_torch_counts(steps: ModuleType) -> None:
    text, images = steps.text_contenders(steps.SMALL_TEXT, 0), steps.image_contenders(steps.SMALL_IMAGE, 0)
    for contender in (text[0], text[1], *images):
        # torch counts nothing for the CPU's fused attention
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            contender.losses[0]().backward()
        assert contender.flops[0] == pytest.approx(counter.get_total_flops(), rel=0.05)


@pytest.mark.slow
def test_document_lengths_follow_the_stated_distribution(text_sides: ModuleType) -> None:
    sizes = text_sides.TextSizes()
    lengths = np.asarray([len(document) for document in text_sides.draw_documents(sizes, 4000, 0)])
    assert lengths.min() >= 8
    assert lengths.max() == sizes.longest
    assert np.median(lengths) == pytest.approx(sizes.median, rel=0.05)


@pytest.mark.slow
def test_peak_benchmark_prints_every_encoder_and_shares_that_make_a_whole() -> None:
    rows = run("peak_share.py")
    assert [row[0] for row in rows] == ["ecg", "ecg_stem", "labs"]
    for row in rows:
        assert sum(float(cell.rstrip("%")) for cell in row[5:]) == pytest.approx(100, abs=5)


@pytest.mark.slow
def test_speech_benchmark_prints_equal_losses_of_both_sides() -> None:
    rows = run("speech_step.py")
    assert len(rows) % 2 == 0
    for ours, theirs in zip(rows[::2], rows[1::2], strict=True):
        assert ours[4] == theirs[4]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_all_small_shards(tmp_path_factory.mktemp("shards"))


@pytest.mark.slow
@pytest.mark.parametrize("script", ["loading.py", "methods.py"])
def test_a_benchmark_over_recipes_prints_a_row_a_recipe(script: str, shards: Path) -> None:
    command = [sys.executable, str(FOLDER / script), str(shards), "--steps", "4", "--recipes", "labs_mltm"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("│")]
    assert len(rows) == 1
    assert "labs_mltm" in rows[0]
    cells = [cell.strip() for cell in rows[0].strip("│").split("│")]
    assert len([cell for cell in cells if cell]) >= 4
    if script == "loading.py":
        assert 0 < float(cells[4].rstrip("%")) < 100
