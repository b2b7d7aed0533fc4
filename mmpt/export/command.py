"""`mmpt export`: a run for people who don't have mmpt, with a certificate that it computes the same."""

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from mmpt.build import POOL, save_facts
from mmpt.config import dump_yaml
from mmpt.downstream.encoder import Encoder, load, weights_sha256
from mmpt.downstream.tables import check_folder
from mmpt.downstream.values import raw_value
from mmpt.encoders import Modality
from mmpt.errors import ConfigError
from mmpt.export import onnx, registered
from mmpt.export.card import write_card
from mmpt.export.fixtures import fixtures_of
from mmpt.export.inputs import inputs_and_outputs
from mmpt.export.one_stream import one_stream
from mmpt.export.peers import has_peer, peer_of
from mmpt.export.samples import COMPARED, differences, furthest
from mmpt.export.silence import without_bars
from mmpt.tokens import Batch, Content
from mmpt.training import checkpoint

Target = Literal["transformers", "timm", "safetensors", "onnx"]
TARGETS = ("transformers", "timm", "safetensors", "onnx")
LIBRARIES = ("mmpt", "torch", "transformers", "timm", "safetensors")
TOLERANCE = 1e-4
CERTIFICATE = "certificate.json"


class Written(NamedTuple):
    """What an export comes to."""

    differences: Mapping[str, float]
    use: str  # Python that loads it; {folder} is where it lies
    compared: str = (
        "latents of made-up samples of three lengths in one padded batch (of a model with a group norm over time: each "
        "by itself), float32, on the CPU"
    )
    inputs: str = ""  # the card's section, where names of inputs are ours


def export(
    run: str | Path,
    out: str | Path,
    *,
    to: Target,
    modality: str | None = None,
    step: int | None = None,
    tolerance: float = TOLERANCE,
    licence: str | None = None,
) -> dict[str, Any]:
    """Write the encoder of a run in another library's form, and prove it; returns the certificate.

    `timm` takes one stream, `transformers` one or all: texts, pictures and speech alone become classes of its own,
    whose folder loads without mmpt, all else `mmpt.transformers.MmptModel`. `onnx` takes one or all, too. `safetensors`
    takes all: for `mmpt.load`, a run folder without optimiser and objective, of which the pool of embeddings stays.
    The exported files are loaded again, both models look at made-up samples of several lengths, padded, and the largest
    difference is written down.

    Args:
        run: of pretraining or fine-tuning.
        out: a folder that is not there yet.
        to: the library.
        modality: the stream; needed where the run has several and the library takes one. Without it `transformers` and
            `onnx` take all.
        step: of the checkpoint; the newest by default.
        tolerance: largest absolute difference of latents.
        licence: of the weights, for the model card: an identifier such as `cc-by-4.0`.

    Raises:
        ConfigError: what the library has no model for, or a difference above the tolerance; nothing is left behind.
    """
    run, out = Path(run), Path(out)
    if to not in TARGETS:
        raise ConfigError(f"--to: expected one of {', '.join(TARGETS)}, got '{to}'")
    if out.exists():
        raise ConfigError(f"{out}: is there already; choose another folder")
    check_folder(out)
    encoder = load(run, step=step, device="cpu")
    staged = out.with_name(f".{out.name}.staged")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        with without_bars() if to == "transformers" else nullcontext():
            written = _written(encoder, staged, to, modality)
        certificate = _certificate(encoder, run, to, written, tolerance)
        if not certificate["largest_difference"] <= tolerance:
            raise ConfigError(
                f"the exported model differs by {certificate['largest_difference']:.2g}, more than {tolerance:g} "
                "allows; nothing was written"
            )
        (staged / CERTIFICATE).write_text(json.dumps(certificate, indent=1) + "\n", encoding="utf-8")
        write_card(staged, out.name, encoder, run, certificate, written.use, written.inputs, licence)
        staged.rename(out)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return certificate


def _written(encoder: Encoder, folder: Path, to: str, modality: str | None) -> Written:
    """All but certificate and card."""
    if to == "safetensors":
        if modality is not None:
            raise ConfigError("--to safetensors takes all streams; leave --modality out, or use onnx or transformers")
        return Written(_whole(encoder, folder), "mmpt.load('{folder}')")
    streams = list(encoder.modalities) if modality is None else [_only(encoder, modality, to)]
    if to == "onnx" or (to == "transformers" and not has_peer(to, [encoder.modalities[name] for name in streams])):
        return _any_streams(encoder, folder, to, streams)
    return Written(*_alone(encoder, folder, to, _only(encoder, modality, to)))


def _any_streams(encoder: Encoder, folder: Path, to: str, streams: Sequence[str]) -> Written:
    """One stream alone or all on one trunk."""
    backbone, modalities = encoder.backbone, {name: encoder.modalities[name] for name in streams}
    if len(streams) < len(encoder.modalities):
        backbone = one_stream(backbone, encoder.modalities, streams[0])
    if to == "onnx":
        use, latents = onnx.USE, onnx.to_onnx(backbone, modalities, folder)
    else:
        use, latents = registered.USE, registered.to_registered(backbone, modalities, encoder.recipe, folder)
    inputs = inputs_and_outputs(modalities, encoder.width)
    return Written(differences(encoder.backbone, modalities, latents), use, COMPARED, inputs)


def _only(encoder: Encoder, modality: str | None, to: str) -> str:
    names = list(encoder.modalities)
    if modality is None and len(names) > 1:
        raise ConfigError(f"--to {to} takes one stream, and the run has {', '.join(names)}; say --modality")
    if modality is not None and modality not in names:
        raise ConfigError(f"--modality: the run has no stream '{modality}'; it has {', '.join(names)}")
    return modality or names[0]


@torch.no_grad()
def _alone(encoder: Encoder, folder: Path, to: str, stream: str) -> tuple[dict[str, float], str]:
    """One stream; the largest difference where there is no padding."""
    modality = encoder.modalities[stream]
    peer = peer_of(to, one_stream(encoder.backbone, encoder.modalities, stream), modality)
    peer.save(folder)
    content = _content(modality)
    ours = encoder.backbone(_batch({stream: content}))[stream].x
    theirs = peer.latents(folder, content)
    return {stream: furthest(ours, theirs, content.valid)}, peer.use


@torch.no_grad()
def _whole(encoder: Encoder, folder: Path) -> dict[str, float]:
    """All streams."""
    weights = {f"backbone.{name}": value.contiguous() for name, value in encoder.backbone.state_dict().items()}
    if encoder.own is not None:
        weights |= {POOL + name: value.contiguous() for name, value in encoder.own.state_dict().items()}
    save_facts(folder, {name: modality.facts for name, modality in encoder.modalities.items()})
    (folder / "recipe.yaml").write_text(dump_yaml(encoder.recipe), encoding="utf-8")
    checkpoint.commit(folder / "checkpoints", checkpoint.Saved(weights, {}, {"step": encoder.step or 0}))
    again, batch = load(folder, device="cpu"), _batch({name: _content(m) for name, m in encoder.modalities.items()})
    ours, theirs = encoder.backbone(batch), again.backbone(batch)
    return {name: furthest(own.x, theirs[name].x, batch.streams[name].valid) for name, own in ours.items()}


def _content(modality: Modality) -> Content:
    rows = [[modality.read(raw_value(modality, raw), 0, modality.limit, None)] for raw in fixtures_of(modality)]
    return modality.collate(rows, None)


def _batch(streams: Mapping[str, Content]) -> Batch:
    uid = torch.arange(len(next(iter(streams.values())).valid))
    return Batch(dict(streams), uid, torch.zeros_like(uid), "export", 0)


def _certificate(encoder: Encoder, run: Path, to: str, written: Written, tolerance: float) -> dict[str, Any]:
    return {
        "to": to,
        "largest_difference": max(written.differences.values()),
        "differences": dict(written.differences),
        "tolerance": tolerance,
        "compared": written.compared,
        "step": encoder.step,
        "source_sha256": weights_sha256(encoder, run),
        "versions": {name: version(name) for name in (*LIBRARIES, *(onnx.PACKAGES if to == "onnx" else ()))},
    }
