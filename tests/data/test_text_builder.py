import gzip
import json
from typing import Any

import numpy as np
import pytest

from mmpt.cli import main
from mmpt.data.builders.text import build_text
from mmpt.data.manifest import load_manifest
from mmpt.data.split import split_of
from mmpt.data.tokenizer import read_tokenizer, token_ids, train_tokenizer
from mmpt.errors import DataError
from tests.data.material import contents, members, prose, write_jsonl, write_table

SMALL: dict[str, Any] = {"vocabulary": 320, "samples_per_shard": 20}


def reasons(manifest):
    return {entry["input"]: entry["reason"] for entry in manifest.rejected}


def test_lengths_are_tokens_without_special_ones_and_labels_are_kept(tmp_path):
    from transformers import AutoTokenizer

    source = write_jsonl(tmp_path / "a.jsonl.gz", 50)
    manifest = build_text([source], tmp_path / "out", **SMALL)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "tokenizer", local_files_only=True)
    found = members(tmp_path / "out")
    assert len(manifest) == 50
    for row, length in zip(manifest.samples.to_pylist(), manifest.lengths("text"), strict=True):
        text = found[f"{row['key']}.txt"].decode()
        assert text == prose(int(row["key"]), 5 + int(row["key"]) % 40)
        assert length == len(tokenizer(text, add_special_tokens=False)["input_ids"])
        number = int(row["key"])
        assert json.loads(found[f"{row['key']}.json"]) == {"id": number, "label": "ab"[number % 2]}
        assert row["group"] == f"book {number // 3}"
        assert row["split"] == split_of(row["group"], (0.8, 0.1, 0.1))
    assert tokenizer.decode(tokenizer("sea wind")["input_ids"]) == "<s>sea wind</s>"


@pytest.mark.parametrize("algorithm", ["bpe", "wordpiece"])
def test_facts_name_the_special_tokens(tmp_path, algorithm):
    manifest = build_text([write_jsonl(tmp_path / "a.jsonl", 40)], tmp_path / "out", algorithm=algorithm, **SMALL)
    facts = manifest.fields["text"].facts
    tokenizer = read_tokenizer(tmp_path / "out" / facts["tokenizer"])
    assert [facts[name] for name in ("bos", "pad", "eos", "unk", "mask")] == [0, 1, 2, 3, 4]
    assert [tokenizer.id_to_token(i) for i in range(5)] == ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    assert facts["vocabulary"] == tokenizer.get_vocab_size() <= 320
    ids = token_ids(tokenizer, prose(1))
    assert min(ids) > 4
    assert tokenizer.decode(ids).replace(" .", ".") == prose(1)


@pytest.mark.parametrize("algorithm", ["bpe", "wordpiece"])
def test_training_a_tokenizer_gives_the_same_bytes_every_time(tmp_path, algorithm):
    generator = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnop"))
    words = ["".join(generator.choice(letters, generator.integers(2, 7))) for _ in range(300)]
    texts = [" ".join(generator.choice(words, 30)) for _ in range(60)]
    for name in ("a", "b", "c"):
        train_tokenizer(iter(texts), tmp_path / name, vocabulary=400, algorithm=algorithm)
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(tmp_path / "c")


def test_the_tokenizer_learns_from_the_training_split_alone(tmp_path):
    groups = [f"g{i}" for i in range(60)]
    held_out = next(group for group in groups if split_of(group, (0.8, 0.1, 0.1)) == "test")
    lines = [
        {"text": "zyzzyva " * 50 if group == held_out else prose(i), "group": group} for i, group in enumerate(groups)
    ]
    source = tmp_path / "a.jsonl"
    source.write_text("\n".join(map(json.dumps, lines)))
    build_text([source], tmp_path / "out", **SMALL)
    assert "zy" not in (tmp_path / "out" / "tokenizer" / "tokenizer.json").read_text()


def test_special_tokens_in_a_document_are_plain_text(tmp_path):
    build_text([write_jsonl(tmp_path / "a.jsonl", 20)], tmp_path / "out", **SMALL)
    ids = token_ids(read_tokenizer(tmp_path / "out" / "tokenizer"), "say <mask> and </s>")
    assert min(ids) > 4


def test_processes_do_not_change_a_byte(tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl.gz", 90, extra=(b"{", b'{"text": ""}'))
    for processes in (1, 3):
        build_text([source], tmp_path / str(processes), processes=processes, **SMALL)
    assert contents(tmp_path / "1") == contents(tmp_path / "3")
    assert len([name for name in contents(tmp_path / "1") if name.endswith(".tar")]) == 5


def test_folders_files_and_tables_are_sources(tmp_path):
    folder = tmp_path / "books"
    (folder / "poems" / "old").mkdir(parents=True)
    (folder / "plain.txt").write_bytes(b"\xef\xbb\xbf" + prose(1).encode())
    (folder / "poems" / "old" / "one.md").write_text(prose(2))
    (folder / "skip.pdf").write_bytes(b"%PDF")
    table = write_table(
        tmp_path / "t.csv", [{"text": f"line one,\nline {i}", "label": "x", "n": str(i)} for i in range(9)]
    )
    single = tmp_path / "single.txt"
    single.write_text(prose(3))
    manifest = build_text([folder, table, single], tmp_path / "out", split=(1, 0, 0), **SMALL)
    found = members(tmp_path / "out")
    assert manifest.column("group")[:2].tolist() == ["plain.txt", "poems/old/one.md"]
    assert found["000000000.txt"].decode() == prose(1)
    assert json.loads(found["000000001.json"]) == {"file": "poems/old/one.md", "label": "poems"}
    assert found["000000002.txt"].decode() == "line one,\nline 0"
    assert json.loads(found["000000002.json"]) == {"label": "x", "n": "0"}
    assert found["000000011.txt"].decode() == prose(3)


def test_bad_documents_are_listed_with_place_and_reason_and_the_rest_is_built(tmp_path):
    bad = (
        b"nonsense",
        b'{"label": "a"}',
        b'{"text": "  "}',
        b'{"text": 5}',
        b'["text"]',
        b'{"text": "\xff"}',
        b'{"text": "\\ud800"}',
        b'{"text": "x", "value": NaN}',
        b'{"text": "x", "n": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b"",
    )
    source = write_jsonl(tmp_path / "a.jsonl", 30, extra=bad)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "latin.txt").write_bytes("é".encode("latin-1"))
    (tmp_path / "texts" / "empty.txt").write_bytes(b"\n")
    manifest = build_text([source, tmp_path / "texts"], tmp_path / "out", **SMALL)
    found = reasons(manifest)
    expected = [
        "not JSON",
        "no 'text'",
        "empty",
        "int",
        "JSON object",
        "not UTF-8",
        "UTF-8",
        "JSON",
        "not JSON",
        "JSON",
    ]
    for line, words in enumerate(expected, start=31):
        assert words in found.pop(f"{source}:{line}")
    assert "byte 0xe9 at 0" in found.pop(str(tmp_path / "texts" / "latin.txt"))
    assert "empty" in found.pop(str(tmp_path / "texts" / "empty.txt"))
    assert not found
    assert manifest.statistics["rejected"] == 12
    assert len(manifest) == 30


def test_the_list_of_bad_inputs_is_capped_but_all_are_counted(tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", 30, extra=(b"x",) * 1200)
    manifest = build_text([source], tmp_path / "out", vocabulary=320, samples_per_shard=100)
    assert len(manifest.rejected) == 1000
    assert manifest.statistics["rejected"] == 1200


def test_a_cut_gzip_gives_the_documents_before_the_cut(tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl.gz", 400)
    source.write_bytes(source.read_bytes()[:-3000])
    manifest = build_text([source], tmp_path / "out", **SMALL)
    assert 50 < len(manifest) < 400
    assert "damaged after this place" in manifest.rejected[-1]["reason"]


def test_rows_of_a_table_with_bad_bytes_or_cells_are_refused_alone(tmp_path):
    source = tmp_path / "t.csv"
    source.write_bytes(
        b"text,label\n" + b"".join(b"%s,a\n" % prose(i).encode() for i in range(20)) + b"\xff\xfe,b\nx,y,z\n,c\n"
    )
    manifest = build_text([source], tmp_path / "out", **SMALL)
    assert len(manifest) == 20
    found = list(reasons(manifest).values())
    assert ["UTF-8" in found[0], "more cells" in found[1], "no 'text'" in found[2]] == [True] * 3


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"x\ny\n", "not one good sample.*not JSON"), (b"", "not one good sample"), (b'{"text": ""}\n', "empty")],
)
def test_without_a_good_document_nothing_is_left_behind(tmp_path, content, words):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=words):
        build_text([tmp_path / "a.jsonl"], tmp_path / "out", **SMALL)
    assert not (tmp_path / "out").exists()
    build_text([write_jsonl(tmp_path / "good.jsonl", 20)], tmp_path / "good", **SMALL)
    with pytest.raises(DataError, match=words.split(".*")[0]):
        build_text([tmp_path / "a.jsonl"], tmp_path / "out", tokenizer=tmp_path / "good" / "tokenizer")
    assert not (tmp_path / "out").exists()


def test_a_local_tokenizer_is_copied(tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", 40)
    build_text([source], tmp_path / "first", **SMALL)
    manifest = build_text([source], tmp_path / "second", tokenizer=tmp_path / "first" / "tokenizer")
    first, second = load_manifest(tmp_path / "first"), manifest
    assert first.fields["text"].facts == second.fields["text"].facts
    assert np.array_equal(first.lengths("text"), second.lengths("text"))


def test_a_tokenizer_that_truncates_does_not_cut_lengths(tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", 40)
    first = build_text([source], tmp_path / "first", **SMALL)
    file = tmp_path / "first" / "tokenizer" / "tokenizer.json"
    plain = json.loads(file.read_text())
    plain["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    file.write_text(json.dumps(plain))
    second = build_text([source], tmp_path / "second", tokenizer=tmp_path / "first" / "tokenizer")
    assert np.array_equal(first.lengths("text"), second.lengths("text"))


def test_a_tokenizer_without_mask_token_or_a_folder_without_tokenizer_is_refused(tmp_path):
    from transformers import PreTrainedTokenizerFast

    source = write_jsonl(tmp_path / "a.jsonl", 20)
    build_text([source], tmp_path / "first", **SMALL)
    file = str(tmp_path / "first" / "tokenizer" / "tokenizer.json")
    PreTrainedTokenizerFast(tokenizer_file=file, pad_token="<pad>").save_pretrained(tmp_path / "maskless")
    (tmp_path / "nothing").mkdir()
    for name, words in (
        ("maskless", "no mask token"),
        ("nothing", "not a transformers tokenizer"),
        ("gone", "no such"),
    ):
        with pytest.raises(DataError, match=words):
            build_text([source], tmp_path / "out", tokenizer=tmp_path / name)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"vocabulary": 100}, "too small"),
        ({"algorithm": "unigram"}, "bpe or wordpiece"),
        ({"split": (0.0, 0.5, 0.5)}, "training split"),
        ({"processes": 0}, "processes"),
        ({"samples_per_shard": 0}, "at least 1"),
    ],
)
def test_bad_settings_are_refused(tmp_path, settings, words):
    with pytest.raises(DataError, match=words):
        build_text([write_jsonl(tmp_path / "a.jsonl", 20)], tmp_path / "out", **{"vocabulary": 320} | settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["gone.jsonl", "a.parquet", "empty"])
def test_bad_sources_are_refused(tmp_path, name):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=name):
        build_text([tmp_path / name], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_line_says_what_came_out_and_one_sentence_for_a_mistake(tmp_path, capsys):
    source = str(write_jsonl(tmp_path / "a.jsonl", 30, extra=(b"x",)))
    command = ["build", "text", source, "--out", str(tmp_path / "out"), "--vocabulary", "320", "--processes", "1"]
    assert main(command) == 0
    output = capsys.readouterr()
    assert "30 samples (train" in output.out
    assert f"{source}:31: not JSON" in output.out
    assert "documents: 31, 1 left out" in output.err
    assert main(command) == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"mmpt: {tmp_path / 'out'}: there is a data set already")
    assert output.err.count("\n") == 1


def test_other_settings_on_a_half_built_folder_are_refused(tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", 60)
    build_text([source], tmp_path / "out", **SMALL)
    whole = contents(tmp_path / "out")
    hidden = tmp_path / "out" / ".building"
    hidden.mkdir()
    (hidden / "plan.json").write_text(json.dumps({"builder": "text"}))
    (tmp_path / "out" / "manifest.json").unlink()
    with pytest.raises(DataError, match="half-built with other"):
        build_text([source], tmp_path / "out", **SMALL)
    (hidden / "plan.json").unlink()
    build_text([source], tmp_path / "out", **SMALL)
    assert contents(tmp_path / "out") == whole


def test_gzip_of_another_tool_is_read(tmp_path):
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"text": prose(i)}) + "\n" for i in range(20))
    manifest = build_text([tmp_path / "a.jsonl.gz"], tmp_path / "out", **SMALL)
    assert set(manifest.fields) == {"text"}
    assert len(set(manifest.column("group"))) == 20
