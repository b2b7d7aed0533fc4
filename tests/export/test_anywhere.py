"""What docs/export.md says, run word for word: streams of every kind as ONNX, transformers and safetensors."""

import json
import re
import shlex
from pathlib import Path

import jaxtyping
import pytest
import torch
from torch.testing import assert_close

import mmpt
from mmpt.cli import main
from mmpt.errors import ConfigError, DataError
from mmpt.export import command
from mmpt.export.fixtures import TEXTS, fixtures_of
from mmpt.export.onnx import to_onnx
from mmpt.trunk.feedforward.dense import DenseFeedForward
from tests.export.exported_runs import make_clinic
from tests.foreign.conftest import tokenizers as tokenizers
from tests.foreign.models import made

pytestmark = pytest.mark.slow  # tracing a graph takes seconds
PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
STREAMS = {"text", "image", "video", "speech", "ecg", "ecg_stem", "labs"}
LONG = {"conv_kernel": (80, 8, 4), "conv_stride": (40, 4, 4)}  # frames of 40 ms: the longest fixture has 15 s


@pytest.fixture(scope="module")
def unchecked():
    """No look at shapes and types: while a graph is traced, sizes are no whole numbers."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, modalities, randomised, unchecked):
    """Where the page's commands were run."""
    folder = tmp_path_factory.mktemp("exports")
    make_clinic(folder / "runs" / "five", {name: own.facts for name, own in modalities.items()}, randomised)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in re.findall(r"^    mmpt (export .+)$", PAGE, flags=re.MULTILINE):
            assert main(shlex.split(line)) == 0, line
    return folder


@pytest.fixture(scope="module")
def samples(folder):
    """Of several streams, of one, and lacking one or the other."""
    raw = {name: fixtures_of(own) for name, own in mmpt.load(folder / "runs" / "five").modalities.items()}
    first, second, third = ({name: own[number] for name, own in raw.items()} for number in range(3))
    return [first, {"text": TEXTS[1], "labs": second["labs"]}, {name: third[name] for name in STREAMS - {"text"}}]


def certificate(folder):
    return json.loads((folder / "certificate.json").read_text(encoding="utf-8"))


def test_onnxruntime_gives_the_latents_of_seven_streams_with_experts(folder):
    told = certificate(folder / "five-onnx")
    assert told["differences"].keys() == STREAMS
    assert 0 < told["largest_difference"] < 1e-5
    assert {"onnx", "onnxruntime"} <= told["versions"].keys()


def test_onnxruntime_gives_the_latents_of_a_stream_alone(folder):
    assert certificate(folder / "five-ecg")["differences"].keys() == {"ecg"}
    assert certificate(folder / "five-ecg")["largest_difference"] < 1e-5


@pytest.mark.parametrize(("name", "changes"), [("bert", {}), ("hubert base", LONG)])
def test_a_model_that_came_from_transformers_becomes_a_graph(unchecked, tokenizers, tmp_path, name, changes):
    """Norms behind, and the group norm and convolutional positions of HuBERT Base."""
    made(name, tmp_path / "came", tokenizers(name), **changes)
    assert 0 < command.export(tmp_path / "came", tmp_path / "went", to="onnx")["largest_difference"] < 1e-5


def test_a_graph_names_what_goes_in_and_out_and_its_card_says_what_that_is(folder):
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "five-onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    shapes = {own.name: own.shape for own in (*session.get_inputs(), *session.get_outputs())}
    assert shapes["ecg_values"] == ["rows", "ecg_tokens", 64]
    assert shapes["ecg_place"] == ["rows", "ecg_tokens"]
    assert shapes["image_valid"] == ["rows", 10]
    assert shapes["video_valid"] == ["rows", 8]
    assert shapes["speech_latents"] == ["rows", "speech_tokens", 16]
    card = (folder / "five-onnx" / "README.md").read_text(encoding="utf-8")
    assert all(f"| `{name}`" in card for name in shapes)


def test_the_page_s_programs_run(folder, monkeypatch):
    monkeypatch.chdir(folder)
    names: dict = {}
    for program in re.findall(r"^```python\n(.+?)^```", PAGE, flags=re.MULTILINE | re.DOTALL):
        exec(program, names)
    assert names["latents"].shape == (2, 5, 16)
    assert names["output"].latents["text"].shape[0] == 2


def test_a_registered_model_reads_raw_samples_as_we_do(folder, samples):
    from transformers import AutoFeatureExtractor, AutoModel

    import mmpt.transformers

    ours = mmpt.load(folder / "runs" / "five", device="cpu").encode(samples).streams
    where = folder / "five-model"
    with torch.no_grad():
        theirs = AutoModel.from_pretrained(where).eval()(**AutoFeatureExtractor.from_pretrained(where)(samples))
    assert theirs.latents.keys() == STREAMS
    for name, own in ours.items():
        assert_close(theirs.latents[name][own.valid], own.latents[own.valid], rtol=0, atol=1e-5)
    assert theirs.valid.shape == theirs.last_hidden_state.shape[:2]


def test_a_registered_model_is_saved_and_loaded_to_the_last_bit(folder, tmp_path):
    from transformers import AutoFeatureExtractor, AutoModel

    import mmpt.transformers  # noqa: F401

    model, extractor = (kind.from_pretrained(folder / "five-model") for kind in (AutoModel, AutoFeatureExtractor))
    for part in (model, extractor):
        part.save_pretrained(tmp_path / "again")
    again = AutoModel.from_pretrained(tmp_path / "again")
    tensors, saved = (dict([*own.named_parameters(), *own.named_buffers()]) for own in (model, again))
    assert all(torch.equal(value, saved[name]) for name, value in tensors.items())
    assert tensors.keys() == saved.keys()
    texts = [{"text": text} for text in TEXTS]
    one, other = (own(texts) for own in (extractor, AutoFeatureExtractor.from_pretrained(tmp_path / "again")))
    assert torch.equal(one["text_values"], other["text_values"])


def test_mmpt_says_what_a_registered_model_is_loaded_by(folder):
    with pytest.raises(ConfigError, match=r"is an export for AutoModel, .* export with --to safetensors"):
        mmpt.load(folder / "five-model")


def test_a_stream_alone_takes_its_own_expert_along(folder):
    told = certificate(folder / "five-labs")
    assert told["differences"].keys() == {"labs"}
    assert told["largest_difference"] < 1e-5
    config = json.loads((folder / "five-labs" / "config.json").read_text(encoding="utf-8"))
    assert config["trunk"]["feedforward"] == {"type": "dense", "ratio": 2.0}


def test_a_card_says_what_a_reader_has_to_know(folder):
    card = (folder / "five-labs" / "README.md").read_text(encoding="utf-8")
    for words in ("library_name: transformers", "import mmpt.transformers", "2 blocks", "source `clinic`", "loss 0.75",
                  "licence", "medical", "type: routed_experts", "`labs_place`"):  # fmt: skip
        assert words in card


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        (
            ("labs_values", "labs_valid"),
            "stream 'labs' lacks 'labs_place'; it takes labs_values, labs_valid, labs_place",
        ),
        (("labs_value",), "no input 'labs_value'; the inputs are labs_values, labs_valid, labs_place"),
        ((), "no input at all; the inputs are labs_values"),
    ],
)
def test_inputs_that_a_model_does_not_take_are_named(folder, inputs, sentence):
    from transformers import AutoModel

    import mmpt.transformers  # noqa: F401

    model = AutoModel.from_pretrained(folder / "five-labs")
    with pytest.raises(DataError, match=sentence):
        model(**dict.fromkeys(inputs, torch.zeros(1, 1)))


class Fickle(DenseFeedForward):
    """Looks at the data to decide what to compute."""

    def forward(self, x, around):
        return super().forward(x, around) if x.sum().item() > 0 else (x, None)


def test_a_part_that_can_not_be_traced_is_named(unchecked, modalities, backbone_of, tmp_path):
    backbone = backbone_of({"labs": modalities["labs"]}, depth=1)
    backbone.trunk.blocks[0].feedforward = Fickle(16)
    with pytest.raises(ConfigError, match=r"--to onnx: Fickle can't be traced \(.+\); use safetensors"):
        to_onnx(backbone, {"labs": modalities["labs"]}, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"to": "transformers", "modality": "image"}, "only a dense feed-forward can be exported"),
        ({"to": "timm", "modality": "ecg"}, "it has no model for ecg; use transformers, onnx or safetensors"),
        ({"to": "safetensors", "modality": "ecg"}, "takes all streams; leave --modality out"),
        ({"to": "transformers", "modality": "ecg", "tolerance": -1.0}, "differs by .* nothing was written"),
    ],
)
def test_what_is_in_the_way_is_named_and_nothing_is_left(folder, tmp_path, arguments, sentence):
    with pytest.raises(ConfigError, match=sentence):
        command.export(folder / "runs" / "five", tmp_path / "out", **arguments)
    assert list(tmp_path.iterdir()) == []
