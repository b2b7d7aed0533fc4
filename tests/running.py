"""How tests run mmpt as a user does: in a process of its own, on real shards, with a small recipe."""

import atexit
import csv
import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from mmpt.data.builders.ecg import build_ecg
from mmpt.data.builders.images import build_images
from mmpt.data.builders.labs import build_labs
from mmpt.data.builders.speech import build_speech
from mmpt.data.builders.text import build_text
from mmpt.data.builders.video import build_video
from mmpt.samples import FOLDER
from mmpt.training.checkpoint import latest

RECIPE = """
streams:
  text: {type: text, max_length: 32}
  image: {type: image, size: 16, patch: 4, crop_scale: [0.5, 1.0], flip: true}
trunk: {type: transformer, width: 16, depth: 2, heads: 2, drop_path: 0.1}
objective:
  type: masked_prediction
  streams:
    text:
      masking: {ratio: 0.3, unit: word}
      corruption: {type: replace, keep: 0.1, random: 0.1}
      predictor: tied
      target: token_ids
    image:
      masking: {ratio: 0.75}
      corruption: drop
      predictor: {type: decoder, width: 16, depth: 1, heads: 2}
      target: pixels
data:
  sources:
    prose: {shards: SHARDS/text, streams: [text], weight: 2, layout: {type: pack, length: 64}}
    pictures: {shards: SHARDS/images, streams: [image]}
    captioned: {shards: SHARDS/images, streams: [image, text]}
  batch_size: 8
  workers: 0
training:
  steps: 12
  log_every: 4
  save_every: 4
  optimizer: {learning_rate: 1e-2, eps: 1e-4, warmup_steps: 2}
"""


def write_recipe(folder: Path, shards: Path, name: str = "small.yaml") -> Path:
    """The recipe above over these shards."""
    path = folder / name
    path.write_text(RECIPE.replace("SHARDS", str(shards)), encoding="utf-8")
    return path


def environment() -> dict[str, str]:
    """One thread, no GPU, no launcher's variables."""
    kept = {
        k: v
        for k, v in os.environ.items()
        if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    }
    return {**kept, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "NO_COLOR": "1"}


def command(*arguments: str | Path, ranks: int = 1) -> list[str]:
    """`mmpt ...` on one process, `deepspeed --module mmpt ...` on several."""
    tail = [str(argument) for argument in arguments]
    if ranks == 1:
        return [sys.executable, "-m", "mmpt", *tail]
    launcher = Path(sys.executable).with_name("deepspeed")
    return [str(launcher), "--num_accelerators", str(ranks), "--master_port", _port(), "--module", "mmpt", *tail]


def mmpt(
    *arguments: str | Path, ranks: int = 1, cwd: Path | None = None, afresh: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run to the end in processes of their own: forked ones, or `afresh`, as a user starts them."""
    if not afresh:
        return forked([str(argument) for argument in arguments], None, ranks, cwd)
    return subprocess.run(
        command(*arguments, ranks=ranks),
        capture_output=True,
        text=True,
        env=environment(),
        cwd=cwd,
        timeout=300,
        check=False,
    )


def forked(
    arguments: list[str], script: Path | None, ranks: int = 1, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `mmpt`, or a script, by forks.py: a process is begun in no time where imports take seconds."""
    argv = [str(script or "mmpt"), *arguments]
    work = {"argv": argv, "script": script and str(script), "ranks": ranks, "cwd": str(cwd or Path.cwd())}
    work |= {"environment": environment(), "port": _port(), "seconds": 300}
    with NamedTemporaryFile("r", encoding="utf-8") as out, NamedTemporaryFile("r", encoding="utf-8") as err:
        code = _answer(json.dumps(work | {"stdout": out.name, "stderr": err.name}))
        return subprocess.CompletedProcess(argv, code, out.read(), err.read())


def _answer(work: str) -> int:
    """Of the server, which is not asked again where this was interrupted: its next answer would be a late one."""
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        server.stdin.write(work + "\n")
        server.stdin.flush()
        return int(server.stdout.readline())
    except BaseException:
        _server.cache_clear()
        server.kill()
        raise


@cache
def _server() -> subprocess.Popen[str]:
    """One for all tests of a process; it ends with its stdin."""
    line = [sys.executable, str(Path(__file__).with_name("forks.py"))]
    server = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment())
    atexit.register(server.communicate)
    return server


def _port() -> str:
    return str(29500 + os.getpid() % 2000)


def several(folder: Path, jobs: list[list[Any]], ranks: int = 1, by: str = "several.py") -> None:
    """Run the jobs of several.py, or of another script, to the end, each of which has to succeed."""
    plan = folder / f"jobs-of-{ranks}.json"
    plan.write_text(json.dumps(jobs), encoding="utf-8")
    done = forked([str(plan)], Path(__file__).with_name(by), ranks)
    assert done.returncode == 0, done.stdout + done.stderr


def start(*arguments: str | Path, ranks: int = 1, cwd: Path | None = None) -> subprocess.Popen[str]:
    """Run in the background, in a process group of its own."""
    return subprocess.Popen(
        command(*arguments, ranks=ranks),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        cwd=cwd,
        start_new_session=True,
    )


def kill_group(process: subprocess.Popen[str]) -> None:
    """SIGKILL to the process and all its children, as an out-of-memory killer or a power cut would."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def kill_at_random(run: Path, steps: int, *arguments: str | Path, kills: int, seed: int, within: float) -> None:
    """Start the command so many times, each time with a SIGKILL within some seconds of its first step.

    A run that gets to its last step in spite of that (the machine was busy with something else) is begun anew.
    """
    moments = random.Random(seed)
    for _ in range(4):
        for _ in range(kills):
            process = start(*arguments)
            assert process.stdout is not None
            first = process.stdout.readline()  # DeepSpeed's start-up is over; from here on there are steps and saves
            assert "step" in first, first + process.stdout.read()
            time.sleep(moments.uniform(0.0, within))
            kill_group(process)
            if (run / "checkpoints" / f"step-{steps:09d}").exists():
                break
        else:
            return
        shutil.rmtree(run)
    raise AssertionError(f"{steps} steps are over before {kills} kills: make it longer")


def wait_for(condition, seconds: float = 120.0) -> None:
    """Poll until it holds."""
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            raise TimeoutError(f"not within {seconds} seconds: {condition}")
        time.sleep(0.01)


def build_small_shards(folder: Path) -> Path:
    """A small part of the real sample data: 120 texts and 60 captioned pictures."""
    with gzip.open(FOLDER / "text" / "glosses.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = file.readlines()
    (folder / "glosses.jsonl").write_text("".join(texts[:: len(texts) // 120]), encoding="utf-8")
    pictures, table = folder / "pictures", FOLDER / "images" / "emoji.csv"
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with zipfile.ZipFile(FOLDER / "images" / "emoji.zip") as archive:
        archive.extractall(pictures, [row["file"] for row in rows[:: len(rows) // 60]])
    build_text([folder / "glosses.jsonl"], folder / "text", vocabulary=600, processes=1, samples_per_shard=50)
    build_images(
        pictures, folder / "images", captions=table, labels=table, tokenizer=folder / "text" / "tokenizer", processes=1
    )
    return folder


def build_all_small_shards(folder: Path) -> Path:
    """The same, with 40 recordings, 60 heartbeats, 80 patients and 22 clips beside them."""
    build_small_shards(folder)
    tokenizer = folder / "text" / "tokenizer"
    table = _part_of(FOLDER / "speech" / "speech.csv", folder / "speech.csv", 40)
    with zipfile.ZipFile(FOLDER / "speech" / "prompts.zip") as archive:
        archive.extractall(folder / "prompts", [row["file"] for row in table])
    own = folder / "speech.csv"
    build_speech(folder / "prompts", folder / "speech", transcripts=own, labels=own, tokenizer=tokenizer)
    rows = _part_of(FOLDER / "ecg" / "ecg.csv", folder / "ecg.csv", 60)
    with np.load(FOLDER / "ecg" / "beats.npz") as beats:
        np.save(folder / "beats.npy", beats["signal"][[int(row["row"]) for row in rows]])
    _write(folder / "ecg.csv", [row | {"row": number} for number, row in enumerate(rows)])
    build_ecg(
        folder / "beats.npy", folder / "ecg", labels=folder / "ecg.csv", reports=folder / "ecg.csv", leads=["ECG"],
        source_rate=140, unit="none", tokenizer=tokenizer,
    )  # fmt: skip
    _part_of(FOLDER / "labs" / "support2.csv.gz", folder / "labs.csv", 80)
    build_labs(
        folder / "labs.csv", folder / "labs", units=FOLDER / "labs" / "units.csv", labels=("dzgroup", "hospdead"),
        tokenizer=tokenizer,
    )  # fmt: skip
    with zipfile.ZipFile(FOLDER / "video" / "tiles.zip") as archive:
        archive.extractall(folder / "tiles", archive.namelist()[::9])
    build_video(folder / "tiles", folder / "video", frames=12)
    return folder


def _part_of(table: Path, part: Path, count: int) -> list[dict[str, Any]]:
    """Rows at regular distances, written to a table of their own."""
    with gzip.open(table, "rt", encoding="utf-8") if table.suffix == ".gz" else table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return _write(part, rows[:: len(rows) // count])


def _write(path: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return rows


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Of the newest whole checkpoint."""
    newest = latest(run / "checkpoints")
    assert newest is not None
    return load_file(newest / "model.safetensors")


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float = 2e-5) -> bool:
    """All but the key biases: softmax ignores them, so their gradient is rounding noise that Adam makes large."""
    for name, value in one.items():
        difference = (value - other[name]).abs()
        if name.endswith("qkv.bias"):
            third = len(difference) // 3
            difference = torch.cat([difference[:third], difference[2 * third :]])
        if name.endswith("key_value.bias"):
            difference = difference[len(difference) // 2 :]
        assert difference.max() < tolerance, name
    return True
