"""Builds that are killed for real at random moments and run again must end as if nothing had happened."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.data.material import contents, write_jsonl, write_pictures, write_table

ROOT = Path(__file__).parents[2]


def build(arguments):
    command = [sys.executable, "-m", "mmpt", "build", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(arguments):
    process = build(arguments)
    output = process.communicate(timeout=120)[0].decode()
    assert process.returncode == 0, output


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    process.stdout.close()  # not read to its end: a worker that outlives its parent would hold it open


def tars(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tar")}


def kill_until_done(arguments, folder, kills, generator):
    """Kill at moments between the first file and the end; gives how many kills met a half-built folder."""
    met = 0
    for _ in range(kills):
        process = build(arguments)
        while process.poll() is None and not (folder / ".building" / "plan.json").exists():
            time.sleep(0.01)
        # the next shard tells that work goes on, whatever the machine's speed
        before, began = tars(folder), time.monotonic()
        while process.poll() is None and tars(folder) == before and time.monotonic() - began < 20:
            time.sleep(0.002)
        time.sleep(generator.uniform(0, 0.3))
        kill(process)
        met += (folder / ".building").exists()
        for path, made in before.items():
            assert tars(folder)[path] == made, f"{path} was finished and made again"
        if (folder / "manifest.json").exists() and not (folder / ".building").exists():
            return met
    finish(arguments)
    return met


@pytest.mark.parametrize("processes", [2])
def test_a_killed_text_build_ends_as_an_uninterrupted_one(tmp_path, processes):
    source = write_jsonl(tmp_path / "a.jsonl.gz", 4000, extra=(b"nonsense",))
    common = ["--vocabulary", 400, "--samples-per-shard", 40, "--processes", processes]
    finish(["text", source, "--out", tmp_path / "whole", *common])
    arguments = ["text", source, "--out", tmp_path / "out", *common]
    met = kill_until_done(arguments, tmp_path / "out", 4 - processes, random.Random(processes))
    assert met, "every kill came too late: make the input larger"
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_killed_picture_build_ends_as_an_uninterrupted_one(tmp_path):
    source = write_pictures(tmp_path / "pictures", 240)
    names = sorted(path.relative_to(source).as_posix() for path in source.rglob("*.*"))
    table = write_table(tmp_path / "t.csv", [{"file": name, "caption": f"the disc {name}"} for name in names])
    (source / "bad.png").write_bytes(b"no")
    common = ["--captions", table, "--vocabulary", 320, "--samples-per-shard", 3, "--processes", 1, "--size", 12]
    finish(["images", source, "--out", tmp_path / "whole", *common])
    arguments = ["images", source, "--out", tmp_path / "out", *common]
    met = kill_until_done(arguments, tmp_path / "out", 3, random.Random(3))
    assert met, "every kill came too late: make the input larger"
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_workers_die_with_their_killed_parent(tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", 6000)
    process = build(
        ["text", source, "--out", tmp_path / "out", "--vocabulary", 400, "--samples-per-shard", 40, "--processes", 2]
    )
    while process.poll() is None and not tars(tmp_path / "out"):
        time.sleep(0.01)
    children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert children
    kill(process)
    end = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in children) and time.monotonic() < end:
        time.sleep(0.05)
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


def test_a_full_disk_is_one_sentence_and_the_next_try_goes_on(tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", 400)
    common = ["--vocabulary", "320", "--samples-per-shard", "40", "--processes", "1"]
    finish(["text", source, "--out", tmp_path / "whole", *common])
    arguments = ["text", str(source), "--out", str(tmp_path / "out"), *common]
    # a limit on the size of a file stands in for a full disk: writing fails half-way through a shard
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60000, 60000));"
        "from mmpt.cli import main; sys.exit(main(['build', *sys.argv[1:]]))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    failed = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, timeout=120
    )
    assert failed.returncode == 2, failed.stderr
    assert "Traceback" not in failed.stderr
    assert "File too large" in failed.stderr
    assert not list((tmp_path / "out").glob("manifest*"))
    finish(arguments)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
