"""One optimiser step of mmpt beside one of torchaudio's HuBERT, in one process: masked units of speech.

    python benchmarks/speech_step.py --threads 1

Both sides have the same weights, masks, units and optimiser (fused AdamW), and before anything is timed they must give
the same loss. A step is forward, backward and update, without DeepSpeed. mmpt's also draws its mask; torchaudio gets
its own ready-made, and computes the logits of hidden frames alone too. The units are those of a code over the waveform.

- 2-4 s: utterances of different lengths, one a row, padded to the longest of the batch.
- 4 s: of one length, where padding has no part in the difference.
- layer, group: the norm of the convolutions, HuBERT Large's and Base's.

Rates are medians over repeats in which both sides take every batch once, in turns; `mmpt is` is the median of the
repeats' ratios. On a machine that others use too, `--clock cpu` counts the process's own seconds. `--profile` prints
where the time of mmpt's first batch goes.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from rich.console import Console
from rich.table import Table
from stepping import (
    CLOCKS,
    Contender,
    arguments_of,
    batch_of,
    block_weights,
    buffers_of,
    first_losses,
    layer,
    measure,
    mmpt_loss,
    optimizer_of,
    shaken,
    wired,
)
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile
from torchaudio.models import HuBERTPretrainModel, hubert_pretrain_model

from mmpt.build import load_weights
from mmpt.config import component
from mmpt.encoders import Facts
from mmpt.encoders.speech import STEM, Speech
from mmpt.model import MaskedModel
from mmpt.objectives.corruption import Corruption
from mmpt.objectives.masked_prediction import StreamSettings
from mmpt.objectives.masking.algebra import MaskingSettings
from mmpt.objectives.masking.unit import Unit
from mmpt.objectives.predictors import Predictor
from mmpt.objectives.targets import Target
from mmpt.tokens import Content
from mmpt.trunk.transformer import Transformer

RATE = 16000
EPS = 1e-5  # torchaudio's, of every norm
GOAL = 1.2
BLOCK = (
    *("layer_norm", "attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.out_proj"),
    *("final_layer_norm", "feed_forward.intermediate_dense", "feed_forward.output_dense"),
)


@dataclass(frozen=True)
class Sizes:
    """Of the model and its batches."""

    seconds: tuple[float, float] = (2.0, 4.0)
    norm: str = "layer"
    width: int = 128
    depth: int = 4
    heads: int = 4
    channels: int = 128
    classes: int = 100
    final: int = 64
    rows: int = 6
    batches: int = 2


GROUPS = {
    "2-4 s, layer": {},
    "4 s, layer": {"seconds": (4.0, 4.0)},
    "4 s, group": {"seconds": (4.0, 4.0), "norm": "group"},
}
SMALL = {"width": 32, "depth": 2, "channels": 16, "classes": 10, "final": 16, "rows": 2}


def units_of(content: Content, classes: int) -> Int[Tensor, "B N"]:
    """One of `classes` units a frame, a code of the samples in the middle of its window: the same for both sides."""
    middle = content.values[:, :, 160:240].abs().sum(2)
    return (middle * 1000).long() % classes


class GivenMask(nn.Module):
    """Stands for torchaudio's mask generator: which frames are hidden is decided outside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mask_embedding = nn.Parameter(torch.rand(width))
        self.hidden = torch.zeros(0)

    def forward(self, x: Float[Tensor, "B N D"], padding: Tensor | None) -> tuple[Tensor, Tensor]:
        """As torchaudio does it."""
        x[self.hidden] = self.mask_embedding.to(x.dtype)
        return x, self.hidden


def mmpt_model(sizes: Sizes) -> tuple[MaskedModel, Speech]:
    """Spans of 10 frames hidden behind a learned vector."""
    settings = {"channels": sizes.channels, "norm": sizes.norm, "max_seconds": sizes.seconds[1]}
    speech = Speech(Facts(Path(), {"sample_rate": RATE, "units": [{"clusters": sizes.classes}]}), **settings)
    parts = StreamSettings(
        masking=MaskingSettings(ratio=0.5, unit=component(Unit, "span", length=10, lengths="fixed")),
        corruption=component(Corruption, "replace"),
        predictor=component(Predictor, "cosine_codebook", projection=sizes.final),
        target=component(Target, "units"),
    )
    trunk = Transformer(1, width=sizes.width, depth=sizes.depth, heads=sizes.heads, norm_eps=EPS)
    return wired("speech", speech, trunk, parts), speech


def torchaudio_model(sizes: Sizes) -> HuBERTPretrainModel:
    """The peer, pre-norm, without dropout."""
    peer = hubert_pretrain_model(
        extractor_mode={"layer": "layer_norm", "group": "group_norm"}[sizes.norm],
        extractor_conv_layer_config=[(sizes.channels, kernel, stride) for kernel, stride in STEM],
        extractor_conv_bias=False,
        encoder_embed_dim=sizes.width, encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=128, encoder_pos_conv_groups=16,
        encoder_num_layers=sizes.depth, encoder_num_heads=sizes.heads, encoder_attention_dropout=0.0,
        encoder_ff_interm_features=4 * sizes.width, encoder_ff_interm_dropout=0.0, encoder_dropout=0.0,
        encoder_layer_norm_first=True, encoder_layer_drop=0.0,
        mask_prob=0.8, mask_selection="static", mask_other=0.0, mask_length=10, no_mask_overlap=False,
        mask_min_space=1, mask_channel_prob=0.0, mask_channel_selection="static", mask_channel_other=0.0,
        mask_channel_length=10, no_mask_channel_overlap=False, mask_channel_min_space=1,
        skip_masked=False, skip_nomask=True, num_classes=sizes.classes, final_dim=sizes.final, feature_grad_mult=None,
    )  # fmt: skip
    peer.mask_generator = GivenMask(sizes.width)
    shaken(peer)
    return peer


def copy_weights(peer: HuBERTPretrainModel, model: MaskedModel, sizes: Sizes) -> None:
    """Torchaudio's -> mmpt's; HuBERT has no embedding of the modality."""
    theirs = peer.state_dict()
    body, own, part = "wav2vec2.encoder", "backbone.encoders.speech", "objective.streams.speech"
    positions = f"{body}.transformer.pos_conv_embed.conv"
    mine = {
        f"{own}.convolution.length": theirs[f"{positions}.parametrizations.weight.original0"],
        f"{own}.convolution.direction": theirs[f"{positions}.parametrizations.weight.original1"],
        f"{own}.convolution.bias": theirs[f"{positions}.bias"],
        **layer(theirs, f"{body}.feature_projection.layer_norm", f"{own}.norm"),
        **layer(theirs, f"{body}.feature_projection.projection", f"{own}.projection"),
        **layer(theirs, f"{body}.transformer.layer_norm", "backbone.trunk.norm"),
        "backbone.trunk.stream_embedding.weight": torch.zeros(1, sizes.width),
        f"{part}.corruption.vector": theirs["mask_generator.mask_embedding"],
        f"{part}.predictor.codes": theirs["logit_generator.label_embeddings"],
        **layer(theirs, "logit_generator.final_proj", f"{part}.predictor.projection"),
    }
    for n in range(len(STEM)):
        conv = f"wav2vec2.feature_extractor.conv_layers.{n}"
        mine[f"{own}.stem.layers.{n}.weight"] = theirs[f"{conv}.conv.weight"].permute(2, 1, 0).flatten(0, 1)
        if f"{conv}.layer_norm.weight" in theirs:
            mine |= layer(theirs, f"{conv}.layer_norm", f"{own}.stem.layers.{n}.norm")
    for n in range(sizes.depth):
        mine |= block_weights(theirs, f"{body}.transformer.layers.{n}", f"backbone.trunk.blocks.{n}", BLOCK)
    load_weights(model, {**buffers_of(model), **mine})


def utterances(sizes: Sizes, count: int, seed: int) -> list[np.ndarray]:
    """Noise, for the work doesn't depend on what is said; whole frames, for torchaudio leaves nothing out."""
    random = np.random.default_rng(seed)
    seconds = random.uniform(*sizes.seconds, count)
    return [random.standard_normal(400 + 320 * int(s * 50 - 1), dtype=np.float32) for s in seconds]


def waves_of(content: Content) -> tuple[Float[Tensor, "B T"], Int[Tensor, " B"]]:
    """What torchaudio gets: waveforms padded with zeros, and their lengths."""
    counts = content.valid.sum(1)
    waves = torch.zeros(len(counts), 320 * int(counts.max()) + 80)
    for row, count in enumerate(counts.tolist()):
        windows = content.values[row, :count]
        waves[row, : 320 * count + 80] = torch.cat([windows[:, :320].flatten(), windows[-1, 320:]])
    return waves, 320 * counts + 80


def peer_loss(
    peer: HuBERTPretrainModel,
    waves: Float[Tensor, "B T"],
    lengths: Int[Tensor, " B"] | None,
    units: Int[Tensor, "B N"],
    hidden: Bool[Tensor, "B N"],
) -> Tensor:
    """Its logits have the right unit in front."""
    peer.mask_generator.hidden = hidden
    logits, _, _ = peer(waves, units, lengths)
    return cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.int64))


def contenders_of(sizes: Sizes, seed: int) -> list[Contender]:
    """Both sides on the same utterances with the same frames hidden."""
    model, speech = mmpt_model(sizes)
    peer = torchaudio_model(sizes)
    copy_weights(peer, model, sizes)
    waves = utterances(sizes, sizes.rows * sizes.batches, seed)
    batches, theirs = [], []
    for number in range(sizes.batches):
        rows = [[speech.read((w, RATE), 0, len(w), None)] for w in waves[number :: sizes.batches]]
        content = speech.collate(rows, None)
        units = units_of(content, sizes.classes)
        batch = batch_of("speech", content._replace(units=units.unsqueeze(2)), number)
        hidden = model.hide(batch, 0.0)["speech"].hidden
        padded, lengths = waves_of(content)
        theirs.append((padded, None if content.full else lengths, units, hidden))
        batches.append(batch)
    useful = [int(batch.streams["speech"].valid.sum()) for batch in batches]
    places = [batch.streams["speech"].valid.numel() for batch in batches]
    ours = [partial(mmpt_loss, model, batch) for batch in batches]
    peers = [partial(peer_loss, peer, *inputs) for inputs in theirs]
    return [
        Contender("mmpt", ours, optimizer_of(model), useful, places),
        Contender("torchaudio", peers, optimizer_of(peer), useful, places),
    ]


def add_rows(table: Table, name: str, contenders: Sequence[Contender], losses: Mapping[str, float]) -> None:
    """One row a side; the first is mmpt."""
    ours, peer = contenders
    ratio = statistics.median(theirs / mine for mine, theirs in zip(ours.seconds, peer.seconds, strict=True))
    for contender in contenders:
        first = contender is ours
        table.add_row(
            name,
            contender.name,
            str(sum(contender.useful)),
            f"{1 - sum(contender.useful) / sum(contender.places):.1%}",
            f"{losses[contender.name]:.5f}",
            f"{statistics.median(sum(contender.useful) / spent for spent in contender.seconds):.1f}",
            "" if first else f"{ratio:.2f} x as fast",
            "" if first else f"{GOAL} x",
        )
    table.add_section()


def print_profile(contenders: Sequence[Contender], clock: str) -> None:
    """The kernels that take the most time, side by side."""
    for contender in contenders:
        with profile(activities=[ProfilerActivity.CPU]) as record:
            contender.step(0, CLOCKS[clock])
        print(contender.name, record.key_averages().table(sort_by="self_cpu_time_total", row_limit=18))


def main() -> None:
    """Print the table."""
    arguments = arguments_of(__doc__, ("--profile", "where the time goes"))
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    title = f"one step: {arguments.threads} thread(s), {arguments.repeats} repeats, {arguments.clock} clock"
    table = Table(title=title)
    for name in ("", "side", "frames", "padding", "loss", "frames/s", "mmpt is", "goal"):
        table.add_column(name, justify="left" if name in ("", "side") else "right")
    for name, settings in GROUPS.items():
        contenders = contenders_of(Sizes(**{**settings, **(SMALL if arguments.small else {})}), arguments.seed)
        losses = first_losses(contenders)
        measure(contenders, arguments.repeats, 64 if arguments.small else 512, CLOCKS[arguments.clock])
        add_rows(table, name, contenders, losses)
        if arguments.profile:
            print_profile(contenders, arguments.clock)
    Console(width=132).print(table)


if __name__ == "__main__":
    main()
