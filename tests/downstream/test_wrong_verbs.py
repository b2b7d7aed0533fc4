"""`mmpt evaluate`, `predict` and `embed` with wrong input, and an embedding that was killed."""

import os
import shutil
import signal
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from walks import CLASSES, make_run, shake, walk

import mmpt
from mmpt.cli import main
from mmpt.downstream import embed as embedding
from mmpt.finetune import Classifier
from mmpt.finetune.model import plain_model
from mmpt.finetune.saved import save

KILLED = """
import os, signal, sys
from pathlib import Path
from mmpt.downstream import embed as embedding

write, embedding.ROWS = embedding._write_part, 64
def second_dies(part, *given):
    if part.name != "000000000000.parquet":
        os.kill(os.getpid(), signal.SIGKILL)
    write(part, *given)
embedding._write_part = second_dies
embedding.embed(sys.argv[1], sys.argv[2], Path(sys.argv[3]), streams=["image"])
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory, run, shards, write_shards):
    """A folder with a task, damaged ones, and data sets that lack something."""
    place = tmp_path_factory.mktemp("wrong")
    (place / "run").symlink_to(run)
    (place / "walks").symlink_to(shards)
    task = Classifier(mmpt.load(run), label="place", inputs=["image"])
    task.facts = {"classes": list(CLASSES), "counts": [1, 1]}
    task.model = plain_model(task)
    save(task, place / "task")
    shutil.copytree(place / "task", place / "damaged")
    (place / "damaged" / "task.json").write_text("{}", encoding="utf-8")
    shutil.copytree(place / "task", place / "torn")
    (weights,) = (place / "torn").glob("checkpoints/*/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-5])
    pictures = [{name: walk(number)[name] for name in ("image", "labels", "__split__")} for number in range(4)]
    write_shards(place / "train", pictures)  # no text, nor a sample to test with
    write_shards(place / "scratched", pictures)
    (tar,) = (place / "scratched").glob("*.tar")
    tar.write_bytes(tar.read_bytes().replace(b"IHDR", b"IHDX"))
    (place / "file").write_text("x", encoding="utf-8")
    (place / "folder.csv").mkdir()
    for name in ("old.csv", "old.parquet"):
        (place / name).write_text("mine", encoding="utf-8")
    return place


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("evaluate task gone", "gone: there is no manifest.json; build it with 'mmpt build'"),
        ("evaluate gone walks", "gone: there is no task.json; is it a fine-tuned task?"),
        ("evaluate run walks", "run: there is no task.json; it is a pretrained run, for mmpt.load and mmpt finetune"),
        (
            "evaluate damaged walks",
            "damaged/task.json: damaged (KeyError('type')); fine-tune again, into another folder",
        ),
        ("evaluate torn walks", "torn: none of the 1 checkpoints is whole"),
        ("evaluate task train", "train: there is no split 'test'; it has train"),
        (
            "predict task walks/tset --out p.csv",
            "walks: has no split 'tset', but test, train, validation; did you mean",
        ),
        ("predict task walks --out p.txt", "p.txt: expected a file that ends in .csv or .parquet"),
        ("predict task walks --out folder.csv", "folder.csv: is a folder; choose another name"),
        ("predict task walks --out old.csv", "old.csv: is there already; choose another name or remove it"),
        ("embed run walks --out old.parquet", "old.parquet: is there already; choose another name or remove it"),
        ("predict task walks --out file/more/p.csv", "file is a file, and would have to be a folder; choose another"),
        ("embed run walks --out file/e.parquet", "file is a file, and would have to be a folder; choose another name"),
        ("export run --to safetensors --out file/out", "file is a file, and would have to be a folder; choose another"),
        (
            "finetune ecg_classes --out file encoder=run train=walks test=null task.label=place task.inputs=[image]",
            "file: is a file; choose another name",
        ),
        ("compress depth --out file/out run=run data=walks", "file is a file, and would have to be a folder; choose"),
        (
            "retrieve task walks --streams image,text",
            "task: is an encoder without what it was pretrained with, as tasks, exports and smaller models are; name",
        ),
        ("embed run walks/test --out e.parquet", "walks is a data set, and all of it is read here: name that"),
        ("embed run walks --out e.parquet --streams sound", "streams: the run has no 'sound'; it has text, image"),
        ("embed run train --out e.parquet --streams text", "train: no sample has text"),
        (
            "embed run scratched --out e.parquet",
            "member 'image': bytes differ from the ones that the manifest was made",
        ),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(place, monkeypatch, capsys, command, sentence):
    monkeypatch.chdir(place)
    before = sorted(place.rglob("*"))
    assert main(command.split()) == 2
    said = capsys.readouterr()
    assert sentence in said.err
    assert said.err.startswith("mmpt: ")
    assert said.err.count("\n") == 1
    assert not said.out
    assert sorted(place.rglob("*")) == before


def test_a_folder_on_the_way_to_a_table_is_made(place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    for command in ("predict task walks --out {}/one/p.csv", "embed run walks --out {}/two/e.parquet"):
        assert main(command.format(tmp_path).split()) == 0
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["e.parquet", "one", "p.csv", "two"]


@pytest.fixture(scope="module")
def killed(tmp_path_factory, shards):
    """A run, and what a SIGKILL left of its embedding in five parts."""
    folder = tmp_path_factory.mktemp("killed")
    run = make_run(folder / "run", shards)
    line = [sys.executable, "-c", KILLED, str(run), str(shards), str(folder / "e.parquet")]
    assert subprocess.run(line, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False).returncode == -signal.SIGKILL
    return run, folder / ".e.parquet.parts"


@pytest.mark.parametrize(("other_weights", "parts"), [(False, 4), (True, 5)])
def test_a_killed_embedding_goes_on_if_the_weights_are_the_same(
    killed, shards, tmp_path, monkeypatch, other_weights, parts
):
    run, left = killed
    if other_weights:
        shake(run)
    shutil.copytree(left, tmp_path / left.name)
    written, write = [], embedding._write_part
    monkeypatch.setattr(embedding, "ROWS", 64)
    monkeypatch.setattr(embedding, "_write_part", lambda part, *given: (written.append(part), write(part, *given)))
    for name in ("e.parquet", "whole.parquet"):
        assert embedding.embed(run, shards, tmp_path / name, streams=["image"]) == 300
    assert len(written) == parts + 5
    one, other = (pq.read_table(tmp_path / name) for name in ("e.parquet", "whole.parquet"))
    assert one.equals(other)
    assert not list(tmp_path.glob(".*"))
