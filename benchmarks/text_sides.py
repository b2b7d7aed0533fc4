"""The masked language model of `pretrain_step.py`: mmpt, and transformers trained in three ways."""

import statistics
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from stepping import (
    EPS,
    Contender,
    batch_of,
    block_flops,
    block_weights,
    buffers_of,
    layer,
    mmpt_loss,
    optimizer_of,
    peer_loss,
    shaken,
    wired,
)
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    RobertaPreLayerNormConfig,
    RobertaPreLayerNormForMaskedLM,
)

from mmpt.build import load_weights
from mmpt.config import component
from mmpt.data.layouts import Pieces
from mmpt.data.layouts.pack import PackLayout
from mmpt.encoders import Facts
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
ROBERTA = (
    *("attention.LayerNorm", "attention.self.query", "attention.self.key", "attention.self.value"),
    *("attention.output.dense", "intermediate.LayerNorm", "intermediate.dense", "output.dense"),
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


SMALL_TEXT = TextSizes(width=32, depth=2, vocabulary=256, longest=64, median=16, rows=4, batches=2, pool=4)


class Document(NamedTuple):
    """A document as run_mlm's collator hands it over."""

    shown: Tensor
    labels: Tensor


def text_flops(sizes: TextSizes, rows: int, length: int, scored: int) -> float:
    """Blocks for all places of the rows, the head for `scored` ones."""
    trunk = rows * length * sizes.depth * block_flops(sizes.width, length)
    return 3 * (trunk + scored * 2 * sizes.width * (sizes.width + sizes.vocabulary))


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
