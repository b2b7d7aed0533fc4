"""`mmpt export`: other libraries load the folder and compute the same, the certificate says so, and what is refused."""

import json
import subprocess
import sys

import pytest
import torch
from PIL import Image as Picture
from torch.testing import assert_close

import mmpt
from mmpt.build import build_modalities
from mmpt.config import component
from mmpt.downstream.encoder import CutWarning, Encoder
from mmpt.errors import ConfigError
from mmpt.export import command
from mmpt.export.fixtures import TEXTS, fixtures_of
from mmpt.export.one_stream import one_stream
from mmpt.export.samples import furthest
from mmpt.finetune import Classifier
from mmpt.trunk import Trunk
from tests.downstream.walks import make_run, prose, walk


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Texts and pictures on one trunk."""
    from mmpt.data.tokenizer import train_tokenizer
    from mmpt.data.writer import ShardWriter

    folder = tmp_path_factory.mktemp("export")
    train_tokenizer([*TEXTS, "the old grey morning path"], folder / "own", vocabulary=300, algorithm="bpe")
    declared = {"image": "png", "text": "txt", "labels": "json"}
    with ShardWriter(folder / "walks", declared, tokenizer=folder / "own") as writer:
        for number in range(20):
            writer.write(walk(number))
    return make_run(folder / "run", folder / "walks")


@pytest.fixture(scope="module")
def text(run):
    folder = run.parent / "text"
    return folder, command.export(run, folder, to="transformers", modality="text")


def test_the_certificate_says_what_was_compared(text, run):
    folder, certificate = text
    assert json.loads((folder / "certificate.json").read_text(encoding="utf-8")) == certificate
    assert 0 < certificate["largest_difference"] < 1e-5
    assert certificate["differences"].keys() == {"text"}
    assert len(certificate["source_sha256"]) == 64
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "AutoModel.from_pretrained('text'" in card
    assert "16 samples" in card
    assert "medical" in card


def test_transformers_draws_no_bar_and_a_bar_of_ones_own_is_there_again(run, tmp_path, capfd):
    from transformers.utils import logging

    def own(factory, args, named):
        return factory(*args, **named)

    before = logging.set_tqdm_hook(own)
    try:
        command.export(run, tmp_path / "picture", to="transformers", modality="image")
        assert capfd.readouterr() == ("", "")
        assert logging.set_tqdm_hook(before) is own
    finally:
        logging.set_tqdm_hook(before)


def test_a_latent_that_is_no_number_is_as_far_away_as_can_be():
    ours, valid = torch.zeros(1, 2, 3), torch.tensor([[True, False]])
    theirs = ours.clone()
    theirs[0, 1] = torch.nan  # padding
    assert furthest(ours, theirs, valid) == 0
    theirs[0, 0, 1] = torch.nan
    assert furthest(ours, theirs, valid) == float("inf")


def test_transformers_reads_texts_without_mmpt(text, run):
    program = f"""
import sys, torch
from transformers import AutoModel, AutoTokenizer
tokenizer, model = (kind.from_pretrained({str(text[0])!r}) for kind in (AutoTokenizer, AutoModel))
batch = tokenizer({list(TEXTS)!r}, padding=True, truncation=True, return_tensors="pt")
latents = model.eval()(**batch).last_hidden_state
mask = batch["attention_mask"].bool() & (batch["input_ids"] != tokenizer.bos_token_id)
mask &= batch["input_ids"] != tokenizer.eos_token_id
assert not any(name.split(".")[0] == "mmpt" for name in sys.modules)
print([own[keep].mean(0).tolist() for own, keep in zip(latents, mask)])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with pytest.warns(CutWarning, match="1 of 3 samples were cut"):
        ours = mmpt.load(run).encode([{"text": text} for text in TEXTS], pool="mean")
    assert_close(torch.tensor(json.loads(done.stdout.splitlines()[-1])), ours, rtol=0, atol=1e-5)


@pytest.mark.parametrize("to", ["transformers", "timm"])
def test_pictures_go_to_both_libraries(run, tmp_path, to):
    certificate = command.export(run, tmp_path / "image", to=to, modality="image")
    assert certificate["largest_difference"] < 1e-5
    assert {"config.json", "model.safetensors", "README.md", "certificate.json"} <= {
        path.name for path in (tmp_path / "image").iterdir()
    }


def test_the_card_s_lines_load_a_model_of_timm(run, tmp_path, monkeypatch):
    import functools
    import pathlib

    import safetensors.torch
    import timm

    command.export(run, tmp_path / "image", to="timm", modality="image")
    card = (tmp_path / "image" / "README.md").read_text(encoding="utf-8")
    lines = [line.strip() for line in card.splitlines() if line.startswith("    ")][:3]
    names = {"json": json, "functools": functools, "pathlib": pathlib, "torch": torch}
    names |= {"timm": timm, "safetensors": safetensors}
    monkeypatch.chdir(tmp_path)
    exec("\n".join(lines), names)
    assert names["model"].norm.eps == mmpt.load(run).recipe.trunk.settings["norm_eps"]


def test_transformers_reads_a_picture_of_the_right_size_as_we_do(run, tmp_path):
    from transformers import AutoImageProcessor, AutoModel

    command.export(run, tmp_path / "image", to="transformers", modality="image")
    encoder = mmpt.load(run)
    size = encoder.modalities["image"].size
    picture = fixtures_of(encoder.modalities["image"])[0].resize((size, size), Picture.Resampling.BICUBIC)
    pixels = AutoImageProcessor.from_pretrained(tmp_path / "image")(picture, return_tensors="pt")
    with torch.no_grad():
        theirs = AutoModel.from_pretrained(tmp_path / "image").eval()(**pixels).last_hidden_state
    assert_close(theirs, encoder.encode({"image": picture}).streams["image"].latents, rtol=0, atol=1e-5)


def test_all_streams_go_to_a_run_folder_without_optimiser(run, tmp_path):
    assert command.export(run, tmp_path / "all", to="safetensors")["differences"] == {"text": 0.0, "image": 0.0}
    samples = [{"text": TEXTS[0]}, {"image": fixtures_of(mmpt.load(run).modalities["image"])[0]}]
    ours, theirs = (mmpt.load(folder).encode(samples, pool="mean_std") for folder in (run, tmp_path / "all"))
    assert torch.equal(ours, theirs)


def test_a_stream_of_a_trunk_with_an_expert_each_is_a_dense_backbone(run):
    encoder = mmpt.load(run)
    trunk = component(Trunk, "transformer", width=16, depth=2, heads=2, feedforward="modality_experts").build(2)
    modalities = build_modalities(encoder.recipe.streams, {n: m.facts for n, m in encoder.modalities.items()})
    backbone = mmpt.model.Backbone(modalities, trunk).eval()
    alone = one_stream(backbone, modalities, "image")
    both, one = (
        Encoder(own, names, encoder.recipe, None, torch.device("cpu"))
        for own, names in ((backbone, modalities), (alone, {"image": modalities["image"]}))
    )
    pictures = [{"image": picture} for picture in fixtures_of(modalities["image"])]
    assert_close(one.encode(pictures, pool="mean"), both.encode(pictures, pool="mean"), rtol=0, atol=1e-6)
    assert len(alone.state_dict()) < len(backbone.state_dict())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"to": "timm"}, "--to timm takes one stream, and the run has text, image; say --modality"),
        ({"to": "timm", "modality": "text"}, "it has no model for text; use transformers, onnx or safetensors"),
        ({"to": "timm", "modality": "imge"}, "the run has no stream 'imge'"),
        ({"to": "transformers", "modality": "text", "tolerance": 0.0}, "differs by .* nothing was written"),
    ],
)
def test_what_can_not_be_exported_is_refused_and_leaves_nothing(run, tmp_path, arguments, sentence):
    with pytest.raises(ConfigError, match=sentence):
        command.export(run, tmp_path / "out", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_left_alone(run, text):
    with pytest.raises(ConfigError, match="is there already; choose another folder"):
        command.export(run, text[0], to="safetensors")


def test_the_card_of_a_fitted_task_has_its_scores_beside_a_guess_and_the_licence(run, tmp_path):
    def labelled(numbers):
        return [{"text": prose(n % 2, n), "label": ("hill", "sea")[n % 2], "group": str(n)} for n in numbers]

    task = Classifier(mmpt.load(run), label="label", inputs=["text"])
    result = task.fit(labelled(range(12)), labelled(range(12, 20)), epochs=1, out=tmp_path / "fitted")
    out = tmp_path / "out"
    command.export(tmp_path / "fitted", out, to="safetensors", licence="cc-by-4.0")
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "\nlicense: cc-by-4.0\n---" in card
    assert "given under cc-by-4.0." in card
    assert "fine-tuned with mmpt by a Classifier of `label`; its head is left out" in card
    assert f"- accuracy, validation: {result.metrics['accuracy'].value:.3f} (" in card
    assert f"a guess has {result.trivial['accuracy']:.3f}" in card
    assert "steps." not in card
