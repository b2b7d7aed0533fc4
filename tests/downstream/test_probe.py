import dataclasses
import io
import json

import pytest
from rich.console import Console
from walks import picture, prose, walk

from mmpt.data.manifest import load_manifest, sample_table, save_manifest
from mmpt.downstream.probe import probe
from mmpt.downstream.summary import summary
from mmpt.errors import CheckpointError, DataError


@pytest.fixture(scope="module")
def found(run, shards):
    return probe(run, shards, label="place")


def test_a_label_that_is_in_the_features_is_found(found):
    assert [row.name for row in found.rows] == [
        "pretrained",
        "untrained",
        "TF-IDF of text",
        "16 x 16 pixels of image",
        "commonest class",
    ]
    assert found.classes == ("hill", "sea")
    assert found.row("untrained").linear.value > 0.85
    assert found.row("16 x 16 pixels of image").linear.value > 0.95
    assert found.row("commonest class").linear.value < 0.75
    assert found.row("commonest class").linear_balanced.value == 0.5
    assert found.row("commonest class").knn is None


def test_every_score_lies_in_its_interval(found):
    for row in found.rows:
        for score in (row.linear, row.linear_balanced, row.knn, row.knn_balanced):
            assert score is None or 0 <= score.low <= score.value <= score.high <= 1
    assert found.gain.low <= found.gain.value <= found.gain.high
    gain = found.row("pretrained").linear.value - found.row("untrained").linear.value
    assert found.gain.value == pytest.approx(gain)


def test_sizes_are_those_of_the_splits(found, shards):
    counts = load_manifest(shards).statistics["splits"]
    assert found.samples == counts == {"train": 180, "validation": 60, "test": 60}
    assert found.groups == {"train": 36, "validation": 12, "test": 12}
    assert found.chosen_by == "the validation split"
    assert (found.step, found.streams) == (2, ("text", "image"))


def test_a_random_label_is_at_chance(run, shards):
    result = probe(run, shards, label="coin", untrained=False)
    assert result.classes == ("0", "1")
    assert result.gain is None
    assert result.row("pretrained").linear.low < 0.55
    assert 0.3 < result.row("pretrained").linear.value < 0.7


def test_it_is_written_to_the_run_as_json_and_the_same_again(found, run, shards):
    file = run / f"probe-{shards.name}-place.json"
    assert file.read_text(encoding="utf-8") == found.to_json()
    assert json.loads(found.to_json())["rows"][0]["linear"]["value"] == found.rows[0].linear.value
    assert probe(run, shards, label="place") == found


def test_the_table_reads_in_wide_and_narrow_terminals(found):
    assert "36 groups" in str(found)
    assert str(found.rows[0].linear) in str(found)
    page = io.StringIO()
    Console(width=60, file=page).print(found.table())
    assert f"{found.rows[0].linear.value:.3f}" in page.getvalue()


def test_all_probes_of_a_run_stand_in_one_table(found, run, shards):
    probe(run, shards, label="place", streams=["image"], score="macro_f1")
    page = io.StringIO()
    Console(width=140, file=page).print(summary(run))
    lines = page.getvalue()
    assert "image: place (2)" in lines
    assert "macro-F1" in lines
    assert f"{found.row('16 x 16 pixels of image').linear.value:.3f} 16 x 16 pixels of image" in lines
    assert summary(shards) is None


def test_one_stream_alone_and_a_cap_on_the_samples(run, shards):
    result = probe(run, shards, label="place", streams=["text"], max_samples=50, untrained=False)
    assert (run / f"probe-{shards.name}-place-text.json").exists()
    assert result.samples == {"train": 50, "validation": 48, "test": 48}  # every fifth sample has no text
    assert [row.name for row in result.rows] == ["pretrained", "TF-IDF of text", "commonest class"]
    assert result.row("TF-IDF of text").linear.value > 0.95
    again = probe(run, shards, label="place", streams=["text"], max_samples=50, untrained=False)
    other = probe(run, shards, label="place", streams=["text"], max_samples=50, untrained=False, seed=1)
    assert result == again != other


def test_without_a_validation_split_groups_of_the_training_split_judge(run, write_shards, tmp_path):
    samples = [walk(n) | {"__split__": "test" if n // 5 % 4 == 0 else "train"} for n in range(120)]
    result = probe(run, write_shards(tmp_path / "two", samples), label="place", untrained=False)
    assert result.chosen_by == "cross-validation over groups of the training split"
    assert result.row("16 x 16 pixels of image").linear.value > 0.9


def test_progress_is_shown_on_a_terminal_only(run, shards):
    pages = {True: io.StringIO(), False: io.StringIO()}
    for terminal, page in pages.items():
        console = Console(file=page, force_terminal=terminal, width=100)
        probe(run, shards, label="place", max_samples=20, untrained=False, console=console)
    assert "pretrained features" in pages[True].getvalue()
    assert pages[False].getvalue() == ""


def labelled(number: int, **labels: object) -> dict:
    return {"text": prose(number % 2, number), "labels": labels, "__split__": ("train", "test")[number % 2]}


TEXTS = {"text": "txt", "labels": "json"}


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("plaec", r"no sample has a label 'plaec'; did you mean 'place'\? there are "),
        ("name", r"label 'name' has 300 values in 300 samples, which are no classes"),
        ("tags", r"sample 0+: label 'tags': expected the name or number of one class, got \['a'\]"),
    ],
)
def test_a_label_that_cannot_be_probed_is_refused(run, shards, label, message):
    with pytest.raises(DataError, match=message):
        probe(run, shards, label=label)


def test_a_label_missing_from_some_samples_is_refused_or_left_out(run, write_shards, tmp_path):
    samples = [labelled(n, kind=n // 2 % 2) if n % 6 else labelled(n, other=1) for n in range(60)]
    folder = write_shards(tmp_path / "some", samples, **TEXTS)
    with pytest.raises(DataError, match=r"label 'kind' is missing from 10 of 60 samples, the first is .*sample 0+"):
        probe(run, folder, label="kind")
    result = probe(run, folder, label="kind", skip_unlabelled=True, untrained=False)
    assert result.samples == {"train": 20, "test": 30}
    assert result.notes == ("10 samples without the label were left out",)


def test_data_that_does_not_fit_the_run_is_refused(run, shards, write_shards, tmp_path):
    one_class = write_shards(tmp_path / "one", [labelled(n, kind="a") for n in range(20)], **TEXTS)
    with pytest.raises(DataError, match=r"label 'kind' is 'a' in all 10 training samples"):
        probe(run, one_class, label="kind")
    unlabelled = write_shards(tmp_path / "bare", [{"text": prose(0, n)} for n in range(30)], text="txt")
    with pytest.raises(DataError, match="labels are read from a JSON field named 'labels'; it has text"):
        probe(run, unlabelled, label="kind")
    other = write_shards(
        tmp_path / "other", [{"photo": picture(0, n), "labels": {"a": 1}} for n in range(9)], photo="png", labels="json"
    )
    with pytest.raises(DataError, match=r"has the fields photo, labels, and none of the run's streams text, image"):
        probe(run, other, label="a")
    swapped = write_shards(
        tmp_path / "swapped", [{"image": "a", "labels": {"a": 1}} for n in range(9)], image="txt", labels="json"
    )
    with pytest.raises(DataError, match=r"field 'image' is text, but the run reads it as image"):
        probe(run, swapped, label="a")
    with pytest.raises(DataError, match=r"streams: the run has no 'sound'; it has text, image"):
        probe(run, shards, label="place", streams=["sound"])
    with pytest.raises(DataError, match=r"there is no split 'dev'; it has test, train, validation"):
        probe(run, shards, label="place", splits=("train", "dev"))
    with pytest.raises(CheckpointError, match="no checkpoint of step 9"):
        probe(run, shards, label="place", step=9)


def test_groups_in_two_splits_are_refused(run, write_shards, tmp_path):
    folder = write_shards(tmp_path / "straddling", [labelled(n, kind=n // 2 % 2) for n in range(40)], **TEXTS)
    manifest = load_manifest(folder)
    rows = [row | {"group": f"pair {number // 2}"} for number, row in enumerate(manifest.samples.to_pylist())]
    save_manifest(dataclasses.replace(manifest, samples=sample_table(rows, manifest.fields)))
    with pytest.raises(DataError, match=r"20 groups are in more than one split \('pair 0' for one\)"):
        probe(run, folder, label="kind")


def test_unreadable_samples_are_left_out_and_said_and_too_many_refused(run, write_shards, tmp_path):
    folder = write_shards(tmp_path / "damaged", [labelled(n, kind=n // 2 % 2) for n in range(200)], **TEXTS)
    manifest = load_manifest(folder)
    offsets, sizes = manifest.column("text.offset"), manifest.column("text.size")
    tar = folder / manifest.shards[0].name

    def damage(samples: range) -> None:
        data = bytearray(tar.read_bytes())
        for sample in samples:
            data[offsets[sample] + sizes[sample] // 2] ^= 255
        tar.write_bytes(data)

    damage(range(1))
    result = probe(run, folder, label="kind", untrained=False)
    assert result.samples == {"train": 99, "test": 100}
    assert result.notes[0].startswith("1 unreadable samples were left out, the first: ")
    assert "member 'text': bytes differ" in result.notes[0]
    damage(range(2, 12))
    with pytest.raises(DataError, match=r"11 of 200 samples can't be read; the first: .*sample 0+"):
        probe(run, folder, label="kind")


def test_cut_texts_are_noted_once(run, write_shards, tmp_path):
    samples = [labelled(n, kind=n // 2 % 2) | {"text": prose(n // 2 % 2, n, words=60)} for n in range(40)]
    result = probe(run, write_shards(tmp_path / "long", samples, **TEXTS), label="kind")
    assert result.notes == ("40 of 40 samples were cut, being longer than the recipe lets them be (text 22, image 1)",)
