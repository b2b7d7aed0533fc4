"""A diagnosis of real small runs: every modality, codes, experts, the report, and what is refused."""

import json
import shutil

import pytest
import torch

from mmpt import load
from mmpt.cli import main
from mmpt.errors import CheckpointError, DataError
from mmpt.evaluation.collect import collect
from mmpt.evaluation.diagnose import Reading, _opened, diagnose
from mmpt.evaluation.diagnosis import MEANINGS
from mmpt.evaluation.subject import subject_of
from mmpt.export.command import export
from mmpt.finetune import Classifier
from mmpt.report.diagnoses import diagnoses_section
from tests.downstream.walks import prose


@pytest.fixture(scope="module")
def found(clinic_run):
    return diagnose(clinic_run, samples=24, device="cpu")


@pytest.fixture(scope="module")
def of_walks(walks_run):
    return diagnose(walks_run, split="train", samples=24, device="cpu")


@pytest.mark.parametrize("name", ["speech", "ecg", "labs"])
def test_every_modality_has_figures_of_every_block(found, name):
    own = found.stream(name)
    assert own.width == 16
    assert [block.block for block in own.blocks] == [1, 2]
    assert own.tokens["complete"] >= own.tokens["real"] + own.tokens["masked"] > own.tokens["masked"] > 0
    for block in own.blocks:
        for group in ("complete", "real", "masked"):
            assert 1 <= block.effective_rank[group] <= 16
            assert 1 <= block.directions[group] <= 16
        assert 0 <= block.masked_outside <= 1
        assert -1 <= block.anisotropy <= 1
        assert -1 <= block.alike <= 1


def test_every_token_is_counted_once(found):
    """Hidden and shown tokens of the masked pass are the observed tokens of the complete one."""
    for own in found.streams:
        assert own.tokens["complete"] == own.tokens["real"] + own.tokens["masked"]


def test_hidden_tokens_that_are_dropped_are_in_no_block(of_walks):
    image, text = of_walks.stream("image"), of_walks.stream("text")
    assert image.dropped
    assert image.tokens["masked"] == 0
    assert 0 < image.tokens["real"] < image.tokens["complete"]
    assert image.blocks[-1].effective_rank["masked"] is None
    assert image.blocks[-1].masked_outside is None
    assert not text.dropped
    assert text.blocks[-1].effective_rank["masked"] >= 1


def test_the_last_block_is_a_shortcut_to_itself(of_walks):
    last = of_walks.stream("image").blocks[-1]
    assert last.shortcut == pytest.approx(1)
    assert last.identity == pytest.approx(1)
    assert of_walks.stream("image").blocks[0].shortcut > of_walks.stream("image").blocks[0].identity


def test_a_tied_head_is_bounded_by_its_width(of_walks):
    output = of_walks.stream("text").output
    assert output.width == 16
    assert output.classes > 300
    assert output.logit_rank <= 17  # the width, and one for the bias
    assert 0 < output.evenness <= 1
    assert of_walks.stream("image").output is None
    assert of_walks.stream("text").codes == ()


def test_codes_and_experts_are_counted(found):
    speech = found.stream("speech")
    assert [own.codes for own in speech.codes] == [8, 8]
    for own in speech.codes:
        assert own.tokens == speech.tokens["masked"]
        assert 0 <= own.dead < 8
        assert 1 <= own.perplexity <= 8 - own.dead + 1e-9
    assert found.stream("ecg").codes == ()
    (experts,) = found.experts
    assert experts.block == 2
    assert len(experts.loads) == 4
    assert sum(experts.loads) == pytest.approx(4)
    assert set(experts.by_stream) == {"speech", "ecg", "labs"}
    assert 1 <= experts.effective <= 4
    assert experts.dead == tuple(n for n, load in enumerate(experts.loads) if load < 0.01)


def altered(run, folder, change):
    """A copy of the run whose weights were changed."""
    from safetensors.torch import load_file

    from mmpt.training import checkpoint

    copy = shutil.copytree(run, folder / "altered")
    newest = checkpoint.latest(copy / "checkpoints")
    weights = load_file(newest / "model.safetensors")
    change(weights)
    step = int(newest.name.removeprefix("step-"))
    checkpoint.commit(copy / "checkpoints", checkpoint.Saved(weights, {}, {"step": step + 1}))
    return copy


def test_what_is_wrong_with_a_model_is_seen(clinic_run, tmp_path):
    """A planted dimension, a gate that has but two favourites, and a quantiser that has but one code."""

    def change(weights):
        weights["backbone.trunk.norm.bias"][5] = 50.0
        for name in weights:
            if name.endswith("feedforward.gate.weight"):
                weights[name].zero_()
            if name.endswith("quantiser.logits.bias"):
                weights[name][3] = 1e4

    found = diagnose(altered(clinic_run, tmp_path, change), samples=16, device="cpu")
    for own in found.streams:
        assert list(own.blocks[-1].outliers) == ["5"]
        assert own.blocks[-1].anisotropy > 0.9
        assert own.outliers[0].dimension == 5
        assert own.outliers[0].blocks == 1
        assert own.anisotropy_without < own.blocks[-1].anisotropy - 0.3
    assert len(found.experts[0].dead) == 2
    assert all(found.experts[0].loads[number] == 0 for number in found.experts[0].dead)
    assert found.experts[0].effective == pytest.approx(2)
    assert found.stream("speech").codes[0].dead == 7
    assert found.stream("speech").codes[0].perplexity == pytest.approx(1)


def test_a_diagnosis_changes_nothing_and_is_the_same_again(found, clinic_run):
    before = torch.random.get_rng_state()
    assert diagnose(clinic_run, samples=24, device="cpu") == found
    assert (torch.random.get_rng_state() == before).all()


def test_batches_are_cut_as_one_likes(walks_run):
    """Rows by two or all at once: sums are of the same tokens."""
    subject = subject_of(walks_run, None, untrained=False)
    ranks = []
    for samples in (24, 24):
        opened = _opened(subject, None, None, None)
        reading = Reading(opened, samples, 0, torch.device("cpu"))
        batches = list(reading.batches())
        if ranks:
            batches = [batch for whole in batches for batch in halves(whole)]
        made = collect(subject.backbone, subject.objective, batches, 1.0)
        ranks.append(made.streams["text"].moments["complete", 2].values)
    assert torch.allclose(*ranks, atol=1e-4)


def halves(batch):
    rows = len(batch.uid)
    for part in (slice(0, rows // 2), slice(rows // 2, rows)):
        streams = {
            name: content._replace(**{f: getattr(content, f)[part] for f in content._fields[:5]})
            for name, content in batch.streams.items()
        }
        yield batch._replace(streams=streams, uid=batch.uid[part], draw=batch.draw[part])


def test_other_data_and_the_untrained_model_are_told_apart(walks_run, walks):
    other = diagnose(walks_run, walks, streams=["image"], split="test", samples=8, untrained=True, device="cpu")
    assert other.step is None
    assert [own.stream for own in other.streams] == ["image"]
    assert other.splits == {walks.name: "test"}
    assert (walks_run / f"diagnosis-{walks.name}-untrained.json").exists()


def test_the_command_prints_and_writes_and_the_report_shows(found, clinic_run, capsys):
    assert main(["diagnose", str(clinic_run), "--samples", "24"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for words in ("speech: width 16", "experts", "codes, set 1:", "Roy and Vetterli 2007", "step 8 over"):
        assert words in printed, words
    kept = json.loads((clinic_run / "diagnosis.json").read_text())
    assert kept["streams"][0]["blocks"][0]["effective_rank"]["real"] > 1
    assert set(kept["meanings"]) == set(MEANINGS)
    html = diagnoses_section(clinic_run)
    for words in ("effective rank, masked", "dead experts", "Shi et al. 2022", "codes:", "alike in a row"):
        assert words in html, words


def test_what_hides_nothing_has_the_figures_of_complete_rows(walks_run, walks, of_walks, tmp_path):
    """A fitted task (its own pool and head), an export and another library's folder."""
    task = Classifier(load(walks_run), label="labels", inputs=["text"])
    rows = [{"text": prose(n % 2, n), "labels": ("hill", "sea")[n % 2], "group": str(n)} for n in range(16)]
    task.fit(rows[:8], rows[8:], epochs=1, strategy="linear_probe", out=tmp_path / "fitted")
    export(walks_run, tmp_path / "whole", to="safetensors")
    export(walks_run, tmp_path / "picture", to="transformers", modality="image")
    for folder, data in (("fitted", None), ("whole", None), ("picture", walks)):
        found = diagnose(tmp_path / folder, data, split="train", samples=24, device="cpu")
        own = found.stream("image")
        assert (found.hidden, own.tokens["real"], own.tokens["masked"]) == (False, 0, 0)
        for block, wanted in zip(own.blocks, of_walks.stream("image").blocks, strict=True):
            assert block.effective_rank["masked"] is None
            assert block.shortcut is not None
            if data is None:  # the same rows, pictures and texts in one sequence
                assert block.effective_rank["complete"] == pytest.approx(wanted.effective_rank["complete"], rel=1e-4)
                assert block.anisotropy == pytest.approx(wanted.anisotropy, abs=1e-4)
        assert "nothing hidden" in found.looked()
        assert diagnoses_section(tmp_path / folder)
    with pytest.raises(DataError, match="no data of its own to look at; name a data set"):
        diagnose(tmp_path / "picture")


@pytest.mark.parametrize("damage", ["", "{}", '{"step": 1, "samples": {}}'])
def test_a_file_that_is_no_diagnosis_gets_a_sentence(tmp_path, damage):
    assert "mmpt diagnose" in diagnoses_section(tmp_path)
    (tmp_path / "diagnosis-x.json").write_text(damage)
    assert "diagnosis-x.json can&#x27;t be read as a diagnosis" in diagnoses_section(tmp_path)


def test_what_can_not_be_looked_at_is_refused(walks_run, walks, clinic, tmp_path, capsys):
    with pytest.raises(CheckpointError, match="not a run folder"):
        diagnose(tmp_path)
    bare = shutil.copytree(walks_run, tmp_path / "bare", ignore=shutil.ignore_patterns("checkpoints", "diagnosis*"))
    with pytest.raises(CheckpointError, match="there is no checkpoint yet"):
        diagnose(bare)
    with pytest.raises(CheckpointError, match="no checkpoint of step 7; there are 1, 2"):
        diagnose(walks_run, step=7)
    with pytest.raises(DataError, match=r"has the fields speech, ecg, labs, and none of the run's streams text, image"):
        diagnose(walks_run, clinic)
    with pytest.raises(DataError, match="streams: the run has no 'sound'; it has text, image"):
        diagnose(walks_run, walks, streams=["sound"])
    with pytest.raises(DataError, match="no split 'dev'"):
        diagnose(walks_run, walks, split="dev")
    with pytest.raises(DataError, match="samples: expected at least 2, got 1"):
        diagnose(walks_run, samples=1)
    assert not list(bare.glob("diagnosis*"))
    assert main(["diagnose", str(bare)]) == 2
    assert main(["diagnose", str(walks_run), "--streams", "text"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert "there is no checkpoint yet" in told[0]
    assert "name a data set" in told[1]
