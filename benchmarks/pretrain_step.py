"""One optimiser step of mmpt beside one of transformers, in one process: text MLM and image MAE.

    python benchmarks/pretrain_step.py --threads 1

Both sides have the same weights, masks and optimiser (fused AdamW), and before anything is timed they must give the
same loss. A step is forward, backward and update, without DeepSpeed. mmpt's also draws its mask and starts from bytes
where images are concerned; the peer gets its masked ids, noise and normalised pixels ready-made.

Documents are of log-normal length (median 64 tokens, sigma 0.8, cut to 8..256). The rows of the table:

- mmpt, packed: documents best-fit packed into rows of 256 with attention inside each; logits of scored tokens alone.
- padded: run_mlm.py --line_by_line. The same documents, one a row, padded to the longest of the batch; all logits.
- length-grouped: the same with --group_by_length, which sorts within 50 batches; batches from all over that order.
- chunked: run_mlm.py without --line_by_line. No padding, but attention runs across documents.
- mmpt and ViTMAE: the same pictures of 96 x 96; 75 % of the patches hidden, pixels normalised per patch. Patches of 16,
  MAE's own size, and of 8, where attention and feed-forward, which are the same work on both sides, leave less to gain.

Rates are medians over repeats in which every side takes every batch once, in turns; `mmpt is` is the median of the
repeats' ratios. `of peak` is FLOPs counted from shapes, by time, by the rate of a large float32 product measured in the
same repeat. On a machine that others use too, `--clock cpu` counts the process's own seconds.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
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
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    RobertaPreLayerNormConfig,
    RobertaPreLayerNormForMaskedLM,
    ViTMAEConfig,
    ViTMAEForPreTraining,
)

from mmpt.build import load_weights
from mmpt.config import component
from mmpt.data.layouts import Pieces
from mmpt.data.layouts.pack import PackLayout
from mmpt.encoders import Facts
from mmpt.encoders.image import Image, normalise
from mmpt.encoders.text import Text
from mmpt.model import MaskedModel
from mmpt.objectives.context import context_of
from mmpt.objectives.corruption import Corruption
from mmpt.objectives.corruption.replace import ReplaceCorruption
from mmpt.objectives.masked_prediction import StreamSettings
from mmpt.objectives.masking.algebra import MaskingSettings
from mmpt.objectives.predictors import Predictor
from mmpt.objectives.targets import Target
from mmpt.tokens import Batch, Tokens
from mmpt.trunk.transformer import Transformer

BOS, PAD, EOS, MASK, SPECIALS = 0, 1, 2, 3, 5
IGNORED = -100
EPS = 1e-6
GOALS = {"text": 2.5, "image": 1.15}
ROBERTA = (
    *("attention.LayerNorm", "attention.self.query", "attention.self.key", "attention.self.value"),
    *("attention.output.dense", "intermediate.LayerNorm", "intermediate.dense", "output.dense"),
)
VITMAE = (
    *("layernorm_before", "attention.q_proj", "attention.k_proj", "attention.v_proj"),
    *("attention.o_proj", "layernorm_after", "mlp.fc1", "mlp.fc2"),
)


@dataclass(frozen=True)
class TextSizes:
    """Of the language model and its batches."""

    width: int = 256
    depth: int = 4
    heads: int = 4
    vocabulary: int = 8192
    longest: int = 256
    median: float = 64
    rows: int = 8
    batches: int = 2
    pool: int = 50  # batches that length grouping sorts together


@dataclass(frozen=True)
class ImageSizes:
    """Of the masked autoencoder and its batches."""

    pixels: int = 96
    patch: int = 16
    width: int = 192
    depth: int = 6
    heads: int = 3
    decoder_width: int = 128
    decoder_depth: int = 2
    decoder_heads: int = 4
    ratio: float = 0.75
    images: int = 32
    batches: int = 3


SMALL_TEXT = TextSizes(width=32, depth=2, vocabulary=256, longest=64, median=16, rows=4, batches=2, pool=4)
FINE_IMAGE = ImageSizes(patch=8, images=16)
SMALL_IMAGE = ImageSizes(pixels=16, patch=4, width=48, depth=2, decoder_width=32, images=4, batches=2)


class Document(NamedTuple):
    """A document as run_mlm's collator hands it over."""

    shown: Tensor
    labels: Tensor


# FLOPs of one step, from shapes. A product of (m, k) and (k, n) is 2 m k n; backward costs twice the forward.


def block_flops(width: int, seen: int) -> float:
    """One token through one block, forward: four square matrices, two of the feed-forward, scores and mixing."""
    return 24 * width**2 + 4 * seen * width


def text_flops(sizes: TextSizes, rows: int, length: int, scored: int) -> float:
    """Blocks for all places of the rows, the head for `scored` ones."""
    trunk = rows * length * sizes.depth * block_flops(sizes.width, length)
    return 3 * (trunk + scored * 2 * sizes.width * (sizes.width + sizes.vocabulary))


def image_flops(sizes: ImageSizes, images: int, *, lean: bool) -> float:
    """Patches embedded (pixels need no gradient), the shown through the trunk, all through the decoder.

    `lean` as mmpt does it: shown patches alone are embedded, and of shown places the decoder's last block
    computes queries, keys and values only.
    """
    patches, numbers = (sizes.pixels // sizes.patch) ** 2, 3 * sizes.patch**2
    shown = 1 + int(patches * (1 - sizes.ratio))
    narrow = sizes.decoder_width
    hidden = patches + 1 - shown
    entry = (shown - 1 if lean else patches) * 2 * numbers * sizes.width
    trunk = shown * (sizes.depth * block_flops(sizes.width, shown) + 2 * sizes.width * narrow)
    decoder = (1 + patches) * sizes.decoder_depth * block_flops(narrow, 1 + patches)
    if lean:
        decoder -= shown * (block_flops(narrow, 1 + patches) - 6 * narrow**2)
    head = (hidden if lean else 1 + patches) * 2 * narrow * numbers
    return images * (2 * entry + 3 * (trunk + decoder + head))


# The same weights on both sides.


def copy_text(peer: nn.Module, model: MaskedModel, sizes: TextSizes) -> None:
    """RobertaPreLayerNorm's weights -> mmpt's."""
    theirs = peer.state_dict()
    body, head = "roberta_prelayernorm", "objective.streams.text.predictor"
    words = theirs[f"{body}.embeddings.word_embeddings.weight"]
    places = theirs[f"{body}.embeddings.position_embeddings.weight"][PAD + 1 :]
    mine = {
        "backbone.encoders.text.embedding.weight": words,
        "backbone.encoders.text.place_embedding.weight": places,
        "backbone.trunk.stream_embedding.weight": theirs[f"{body}.embeddings.token_type_embeddings.weight"],
        "objective.streams.text.corruption.vector": words[MASK],
        f"{head}.bias": theirs["lm_head.bias"],
        **layer(theirs, f"{body}.embeddings.LayerNorm", "backbone.trunk.entry"),
        **layer(theirs, f"{body}.LayerNorm", "backbone.trunk.norm"),
        **layer(theirs, "lm_head.dense", f"{head}.dense"),
        **layer(theirs, "lm_head.layer_norm", f"{head}.norm"),
    }
    for n in range(sizes.depth):
        mine |= block_weights(theirs, f"{body}.encoder.layer.{n}", f"backbone.trunk.blocks.{n}", ROBERTA)
    load_weights(model, {**buffers_of(model), **mine})


def copy_image(peer: nn.Module, model: MaskedModel, sizes: ImageSizes) -> None:
    """ViTMAE's weights -> mmpt's, and mmpt's fixed positions -> ViTMAE, which has zeros unless loaded from a file."""
    with torch.no_grad():
        peer.vit.embeddings.position_embeddings.copy_(model.backbone.encoders["image"].position)
        peer.decoder.decoder_pos_embed.copy_(model.objective.streams["image"].predictor.places.table)
    theirs = peer.state_dict()
    decoder = "objective.streams.image.predictor"
    patches = theirs["vit.embeddings.patch_embeddings.projection.weight"]
    mine = {
        "backbone.encoders.image.projection.weight": patches.permute(0, 2, 3, 1).flatten(1),
        "backbone.encoders.image.projection.bias": theirs["vit.embeddings.patch_embeddings.projection.bias"],
        "backbone.encoders.image.class_token": theirs["vit.embeddings.cls_token"].flatten(),
        "backbone.trunk.stream_embedding.weight": torch.zeros(1, sizes.width),
        f"{decoder}.mask_token": theirs["decoder.mask_token"].flatten(),
        **layer(theirs, "vit.layernorm", "backbone.trunk.norm"),
        **layer(theirs, "decoder.decoder_embed", f"{decoder}.entry"),
        **layer(theirs, "decoder.decoder_norm", f"{decoder}.norm"),
        **layer(theirs, "decoder.decoder_pred", f"{decoder}.head"),
    }
    for n in range(sizes.depth):
        mine |= block_weights(theirs, f"vit.layers.{n}", f"backbone.trunk.blocks.{n}", VITMAE)
    for n in range(sizes.decoder_depth):
        mine |= block_weights(theirs, f"decoder.decoder_layers.{n}", f"{decoder}.blocks.{n}", VITMAE)
    load_weights(model, {**buffers_of(model), **mine})


# The two methods.


def text_model(sizes: TextSizes) -> tuple[MaskedModel, Text]:
    """BERT's method: 15 % hidden, of those 80 % masked, 10 % random, 10 % kept."""
    values = {"vocabulary": sizes.vocabulary, "bos": BOS, "pad": PAD, "eos": EOS, "mask": MASK}
    text = Text(Facts(Path(), values), max_length=sizes.longest)
    settings = StreamSettings(
        masking=MaskingSettings(ratio=0.15, rounding="dither"),
        corruption=component(Corruption, "replace", keep=0.1, random=0.1),
        predictor=component(Predictor, "tied", norm_eps=EPS),
        target=component(Target, "token_ids"),
    )
    trunk = Transformer(1, width=sizes.width, depth=sizes.depth, heads=sizes.heads, norm_entry=True, norm_eps=EPS)
    return wired("text", text, trunk, settings), text


def image_model(sizes: ImageSizes) -> tuple[MaskedModel, Image]:
    """MAE."""
    image = Image(Facts(Path()), size=sizes.pixels, patch=sizes.patch)
    decoder = {"width": sizes.decoder_width, "depth": sizes.decoder_depth, "heads": sizes.decoder_heads}
    settings = StreamSettings(
        masking=MaskingSettings(ratio=sizes.ratio),
        corruption=component(Corruption, "drop"),
        predictor=component(Predictor, "decoder", **decoder, norm_eps=EPS),
        target=component(Target, "pixels", normalize=True),
    )
    trunk = Transformer(1, width=sizes.width, depth=sizes.depth, heads=sizes.heads, norm_eps=EPS)
    return wired("image", image, trunk, settings), image


# Text.


def draw_documents(sizes: TextSizes, count: int, seed: int) -> list[np.ndarray]:
    """Random ids between <s> and </s>, of log-normal length."""
    random = np.random.default_rng(seed)
    lengths = np.exp(np.log(sizes.median) + 0.8 * random.standard_normal(count))
    lengths = lengths.round().clip(8, sizes.longest).astype(np.int64)
    inside = [random.integers(SPECIALS, sizes.vocabulary, length - 2) for length in lengths]
    return [np.concatenate([[BOS], ids, [EOS]]) for ids in inside]


def packed(documents: list[np.ndarray], text: Text, sizes: TextSizes, seed: int) -> list[Batch]:
    """As mmpt's loader makes them: planned by lengths, rows in random order."""
    lengths = np.asarray([len(document) for document in documents])
    pieces = Pieces(np.arange(len(lengths)), np.zeros_like(lengths), lengths - 2, lengths)
    plan = PackLayout(length=sizes.longest).plan(pieces, seed)
    order = np.random.default_rng(seed).permutation(plan.num_bins)
    batches = []
    for number in range(plan.num_bins // sizes.rows):
        chosen = order[number * sizes.rows : (number + 1) * sizes.rows]
        rows = [[documents[piece] for piece in plan.pieces(int(row))] for row in chosen]
        batches.append(batch_of("text", text.collate(rows, plan.row_size), number))
    return batches


def unpacked(model: MaskedModel, batch: Batch, sizes: TextSizes) -> list[Document]:
    """The batch's documents, hidden and replaced exactly as mmpt does it."""
    content = batch.streams["text"]
    hidden = model.hide(batch, 0.0)["text"].hidden
    own = model.objective.streams["text"].corruption
    # mmpt's own corruption, on ids in place of embeddings
    corruption = ReplaceCorruption(1, keep=own.keep, random=own.random)
    corruption.vector.data.fill_(MASK)
    ids = content.values.unsqueeze(2).float()
    tokens = Tokens(ids, ids, content.place, content.valid, content.segment, content.place)
    context = context_of(batch, "text", 0.0)._replace(
        substitute=lambda choice: (choice * sizes.vocabulary).long().unsqueeze(2).float()
    )
    shown = corruption(tokens, hidden, context).tokens.x.squeeze(2).detach().long()
    labels = content.values.masked_fill(~hidden, IGNORED)
    documents = []
    for row in range(len(shown)):
        for number in content.segment[row, content.valid[row]].unique().tolist():
            inside = content.valid[row] & (content.segment[row] == number)
            documents.append(Document(shown[row, inside], labels[row, inside]))
    return documents


def padded(documents: list[Document]) -> dict[str, Tensor]:
    """One a row, to the longest of the batch: DataCollatorForLanguageModeling."""
    ids = pad_sequence([d.shown for d in documents], batch_first=True, padding_value=PAD)
    labels = pad_sequence([d.labels for d in documents], batch_first=True, padding_value=IGNORED)
    lengths = torch.tensor([len(d.shown) for d in documents])
    inside = torch.arange(ids.shape[1]) < lengths[:, None]
    return {"input_ids": ids, "labels": labels, "attention_mask": inside.long()}


def length_grouped(documents: list[Document], size: int, count: int) -> list[dict[str, Tensor]]:
    """The pool in order of length, cut into batches; `count` of them, evenly from short to long."""
    ordered = sorted(documents, key=lambda document: -len(document.shown))
    batches = [ordered[start : start + size] for start in range(0, len(ordered) - size + 1, size)]
    return [padded(batches[int((number + 0.5) * len(batches) / count)]) for number in range(count)]


def chunked(documents: list[Document], length: int) -> dict[str, Tensor]:
    """run_mlm's group_texts: one after the other, cut into full rows, the rest left out."""
    ids, labels = (torch.cat(columns) for columns in zip(*documents, strict=True))
    rows = len(ids) // length
    cut = {"input_ids": ids[: rows * length], "labels": labels[: rows * length]}
    return {name: values.view(rows, length) for name, values in cut.items()}


def roberta(sizes: TextSizes) -> nn.Module:
    """The peer, without dropout."""
    config = RobertaPreLayerNormConfig(
        vocab_size=sizes.vocabulary, hidden_size=sizes.width, num_hidden_layers=sizes.depth,
        num_attention_heads=sizes.heads, intermediate_size=4 * sizes.width, layer_norm_eps=EPS, type_vocab_size=1,
        max_position_embeddings=sizes.longest + PAD + 1, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, attn_implementation="sdpa",
    )  # fmt: skip
    return shaken(RobertaPreLayerNormForMaskedLM(config))


def text_contenders(sizes: TextSizes, seed: int) -> list[Contender]:
    """mmpt, and three ways to train the peer."""
    model, text = text_model(sizes)
    peer = roberta(sizes)
    copy_text(peer, model, sizes)
    count = round(sizes.pool * sizes.rows * sizes.longest / sizes.median)
    pool = packed(draw_documents(sizes, count, seed), text, sizes, seed)[: sizes.pool]
    documents = [unpacked(model, batch, sizes) for batch in pool]
    batches = pool[: sizes.batches]
    size = round(statistics.mean(map(len, documents)))
    ways = {
        "padded": [padded(own) for own in documents[: sizes.batches]],
        "length-grouped": length_grouped([d for own in documents for d in own], size, sizes.batches),
        "chunked": [chunked(own, sizes.longest) for own in documents[: sizes.batches]],
    }
    ours = text_contender(model, batches, sizes)
    optimizer = optimizer_of(peer)
    return [ours, *(text_peer(name, peer, optimizer, made, sizes) for name, made in ways.items())]


def text_contender(model: MaskedModel, batches: list[Batch], sizes: TextSizes) -> Contender:
    """Packed rows through mmpt."""
    contents = [batch.streams["text"] for batch in batches]
    scored = [int(model.hide(batch, 0.0)["text"].scored.sum()) for batch in batches]
    return Contender(
        "mmpt, packed",
        [partial(mmpt_loss, model, batch) for batch in batches],
        optimizer_of(model),
        [int(content.valid.sum()) for content in contents],
        [content.valid.numel() for content in contents],
        [text_flops(sizes, *c.valid.shape, s) for c, s in zip(contents, scored, strict=True)],
    )


def text_peer(
    name: str, peer: nn.Module, optimizer: torch.optim.Optimizer, batches: list[dict[str, Tensor]], sizes: TextSizes
) -> Contender:
    """RobertaPreLayerNormForMaskedLM on batches of one kind."""
    ids = [batch["input_ids"] for batch in batches]
    useful = [int(b["attention_mask"].sum()) if "attention_mask" in b else b["input_ids"].numel() for b in batches]
    return Contender(
        f"transformers, {name}",
        [partial(peer_loss, peer, batch) for batch in batches],
        optimizer,
        useful,
        [i.numel() for i in ids],
        [text_flops(sizes, *i.shape, i.numel()) for i in ids],
    )


def peer_loss(peer: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The peer's own mean over scored tokens."""
    return peer(**batch).loss


# Images.


def vitmae(sizes: ImageSizes) -> nn.Module:
    """The peer."""
    config = ViTMAEConfig(
        image_size=sizes.pixels, patch_size=sizes.patch, hidden_size=sizes.width, num_hidden_layers=sizes.depth,
        num_attention_heads=sizes.heads, intermediate_size=4 * sizes.width, mask_ratio=sizes.ratio,
        decoder_hidden_size=sizes.decoder_width, decoder_num_hidden_layers=sizes.decoder_depth,
        decoder_num_attention_heads=sizes.decoder_heads, decoder_intermediate_size=4 * sizes.decoder_width,
        norm_pix_loss=True, layer_norm_eps=EPS, attn_implementation="sdpa",
    )  # fmt: skip
    return shaken(ViTMAEForPreTraining(config))


def pictures(image: Image, batch: Batch) -> Tensor:
    """Patches -> the normalised pixels (B, 3, height, width) that transformers' image processor makes."""
    values = normalise(batch.streams["image"].values[:, 1:], *image.normalisation())
    grid = values.view(-1, image.side, image.side, image.patch, image.patch, 3)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(-1, 3, image.size, image.size).contiguous()


def image_contenders(sizes: ImageSizes, seed: int) -> list[Contender]:
    """Both sides on the same pictures with the same patches hidden."""
    model, image = image_model(sizes)
    peer = vitmae(sizes)
    copy_image(peer, model, sizes)
    random = np.random.default_rng(seed)
    shape = (sizes.images, 1 + image.num_patches, image.patch_numbers)
    batches, theirs = [], []
    for number in range(sizes.batches):
        values = random.integers(0, 256, shape, dtype=np.uint8)
        batches.append(batch_of("image", image.collate([[patches] for patches in values], None), number))
        hidden = model.hide(batches[-1], 0.0)["image"].hidden[:, 1:]
        noise = hidden.float() + torch.linspace(0, 0.5, image.num_patches)  # shown patches in their order
        theirs.append({"pixel_values": pictures(image, batches[-1]), "noise": noise})
    counts = [sizes.images] * sizes.batches
    lean, full = ([image_flops(sizes, sizes.images, lean=lean)] * sizes.batches for lean in (True, False))
    ours = [partial(mmpt_loss, model, batch) for batch in batches]
    peers = [partial(peer_loss, peer, batch) for batch in theirs]
    return [
        Contender("mmpt", ours, optimizer_of(model), counts, counts, lean),
        Contender("transformers, ViTMAE", peers, optimizer_of(peer), counts, counts, full),
    ]


# Measuring.


def add_rows(
    table: Table, name: str, contenders: Sequence[Contender], losses: Mapping[str, float], peaks: Sequence[float]
) -> None:
    """One row a contender; the first is mmpt."""
    kind = name.split()[0]
    rates = [[sum(c.useful) / spent for spent in c.seconds] for c in contenders]
    for contender, own in zip(contenders, rates, strict=True):
        first = contender is contenders[0]
        ratio = statistics.median(mine / theirs for mine, theirs in zip(rates[0], own, strict=True))
        paired = zip(contender.seconds, peaks, strict=True)
        table.add_row(
            name,
            contender.name,
            str(sum(contender.useful)),
            f"{1 - sum(contender.useful) / sum(contender.places):.1%}" if kind == "text" else "",
            f"{losses[contender.name]:.5f}" if contender.name in losses else "",
            f"{statistics.median(own):.1f}",
            "" if first else f"{ratio:.2f} x as fast",
            f"{GOALS[kind]} x" if contender is contenders[1] else "",
            f"{statistics.median(sum(contender.flops) / spent / peak for spent, peak in paired):.0%}",
        )
    table.add_section()


def main() -> None:
    """Print the table."""
    arguments = arguments_of(__doc__)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    text = SMALL_TEXT if arguments.small else TextSizes()
    images = [SMALL_IMAGE] if arguments.small else [ImageSizes(), FINE_IMAGE]
    groups = [("text", text_contenders(text, arguments.seed))]
    groups += [(f"image /{sizes.patch}", image_contenders(sizes, arguments.seed)) for sizes in images]
    table = Table(
        title=f"one step: {arguments.threads} thread(s), {arguments.repeats} repeats, {arguments.clock} clock"
    )
    for name in ("", "side", "useful", "padding", "loss", "useful/s", "mmpt is", "goal", "of peak"):
        table.add_column(name, justify="left" if name in ("", "side") else "right")
    peaks: list[float] = []
    for name, contenders in groups:
        losses = first_losses(contenders)
        own = measure(contenders, arguments.repeats, 64 if arguments.small else 1024, CLOCKS[arguments.clock])
        add_rows(table, name, contenders, losses, own)
        peaks += own
    table.caption = (
        "useful: tokens that are not padding, or images, of one repeat; "
        f"peak: {statistics.median(peaks) / 1e9:.1f} GFLOP/s in float32 products"
    )
    Console(width=132).print(table)


if __name__ == "__main__":
    main()
