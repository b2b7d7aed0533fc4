"""Finding one half of a pair by the other (CLIP, Radford et al. 2021, section 2.3)."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from mmpt.config import Component, chosen
from mmpt.downstream.encoder import Encoder
from mmpt.downstream.retrieval import RANKS, chance, first_ranks
from mmpt.errors import ConfigError, DataError
from mmpt.finetune.gather import of_all_ranks
from mmpt.finetune.metrics import Metric
from mmpt.finetune.objective import labels_of
from mmpt.finetune.row_task import PoolChoice
from mmpt.finetune.tasks import Sample, Task
from mmpt.pools import Pool, TokenLatents
from mmpt.tokens import Batch, Content, Labels

if TYPE_CHECKING:
    from mmpt.finetune.examples import Examples

OF_ITS_OWN = -1  # what no other sample has
LARGEST_SCALE = 100.0
CHUNK = 1024  # queries compared at once


class PairHead(nn.Module):
    """Each stream's vector -> a unit vector; the first one's is multiplied by the learned scale.

    Args:
        pools: of both streams. streams: the two. width, size: D and E. temperature: that the scale begins with.
    """

    def __init__(
        self, pools: Sequence[Pool], streams: tuple[str, ...], width: int, size: int, temperature: float
    ) -> None:
        super().__init__()
        self.streams = streams
        self.pools = nn.ModuleList(pools)
        self.maps = nn.ModuleList([nn.Linear(width, size, bias=False) for _ in streams])
        self.log_scale = nn.Parameter(torch.full((1,), -math.log(temperature)))

    def forward(self, streams: Mapping[str, TokenLatents]) -> Float[Tensor, "B 2 E"]:
        """Inner products of the two are the logits."""
        parts = [self.vector({name: streams[name]}) for name in self.streams]
        return torch.stack([self.log_scale.exp().clamp(max=LARGEST_SCALE) * parts[0], parts[1]], dim=1)

    def vector(self, streams: Mapping[str, TokenLatents]) -> Float[Tensor, "B E"]:
        """Of one of the two streams: what its half is compared by."""
        if len(streams) != 1:
            raise ConfigError(f"streams: a pair's halves have a vector each; name one of {' and '.join(self.streams)}")
        number = self.streams.index(next(iter(streams)))
        return normalize(self.maps[number](self.pools[number](streams)).float(), dim=1)


class Retrieval(Task):
    """Samples that have both streams are pairs, and there is no other label: the symmetric InfoNCE of CLIP.

    Each stream goes through the trunk by itself. The candidates of a row are the rows of the whole batch on all ranks,
    whose features are gathered with their gradients, so that several ranks take the step that one rank takes. Where
    two samples share a text, neither counts as wrong for the other. Recalls are among all pairs that are judged, each
    text once; a sample asks for its other half, and any that belongs to the same text is right.

    Predictions say, for every sample, the number (from 0) of the sample whose second half is most similar to its first.

    Args:
        encoder: see `Task`.
        streams: the two.
        pool: from the latents of one of them to one vector; `mean` by default.
        size: E, numbers that are compared.
        temperature: that training begins with.
    """

    pooled = True
    alone = True

    def __init__(
        self,
        encoder: Encoder,
        *,
        streams: tuple[str, ...] | list[str],
        pool: PoolChoice = None,
        size: int = 128,
        temperature: float = 0.07,
    ) -> None:
        if len(streams) != 2 or streams[0] == streams[1]:
            raise ConfigError(f"streams: expected two different streams, got {', '.join(streams) or 'none'}")
        super().__init__(encoder, label=None, inputs=streams)
        if size < 1 or not temperature > 0:
            raise ConfigError(f"size, temperature: expected 1 or more and above 0, got {size} and {temperature}")
        self.streams, self.size, self.temperature = tuple(streams), size, temperature
        self.pool = chosen(Component[Pool], pool or "mean", "pool")
        if cast("type[Pool]", self.pool.target).streams:
            raise ConfigError(f"pool: '{self.pool.name}' joins streams, and each is by itself here; use another")
        self.metrics = metrics_of(self.streams)

    @property
    def title(self) -> str:
        """Both ways."""
        return " and ".join(self.streams)

    @property
    def wanted(self) -> str:
        """A pair."""
        return f"both {self.title}"

    @property
    def lack(self) -> str:
        """Half of it."""
        return "second half"

    def given(self, examples: "Examples") -> Sequence[Any]:
        """True of pairs."""
        pairs = (all(examples.has(number, name) for name in self.streams) for number in range(len(examples)))
        return [True if pair else None for pair in pairs]

    def learn(self, labels: Sequence[Any]) -> dict[str, Any]:
        """Nothing; raises DataError where there is nothing to tell a pair from."""
        if len(labels) < 2:
            raise DataError(f"retrieval needs 2 pairs of {self.title} at least, and there is {len(labels)} to train on")
        return {}

    def read(self, label: Any) -> np.ndarray:
        """Which items the halves are is seen in the sample."""
        return np.full(2, OF_ITS_OWN)

    def align(self, label: np.ndarray | None, sample: Sample) -> np.ndarray | None:
        """Numbers that texts have in common."""
        return None if label is None else np.array([_item(sample.raw[name]) for name in self.streams])

    def collate(self, labels: Sequence[np.ndarray | None], streams: Mapping[str, Content]) -> Labels:
        """Items (B, 2)."""
        nothing = np.full(2, OF_ITS_OWN)
        items = np.stack([nothing if label is None else label for label in labels])
        return Labels(torch.from_numpy(items), torch.tensor([label is not None for label in labels]))

    def head(self) -> nn.Module:
        """A pool and a linear map a stream."""
        pools = [self.pool.build(self.encoder.width) for _ in self.streams]
        return PairHead(pools, self.streams, self.encoder.width, self.size, self.temperature)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Mean of both directions' cross-entropy, (B)."""
        labels = labels_of(batch)
        with torch.autocast(outputs.device.type, enabled=False):
            return info_nce(outputs.float(), labels.values, labels.known)

    def scores(self, outputs: Tensor, batch: Batch) -> Sequence[np.ndarray]:
        """Features (2, E); NaN where a sample lacks a stream."""
        there = torch.stack([batch.streams[name].valid.any(1) for name in self.streams], dim=1)
        return list(torch.where(there.unsqueeze(2), outputs.float(), torch.nan).numpy())

    def truth(self, batch: Batch) -> Sequence[np.ndarray]:
        """The items."""
        return list(labels_of(batch).values.numpy())

    def evidence(self, true: Sequence[np.ndarray], scores: Sequence[np.ndarray]) -> tuple[Int[np.ndarray, "B 2"]]:
        """How far down the right item stands, both ways."""
        return (ranks_of(true, np.stack(scores)),)

    def decode(self, scores: Sequence[np.ndarray]) -> list[int | None]:
        """Numbers of samples; None where a sample lacks its first half, or no sample has a second."""
        features = np.stack(scores)
        there = ~np.isnan(features[:, :, 0])
        candidates = np.flatnonzero(there[:, 1])
        if not len(candidates):
            return [None] * len(features)
        answers = features[candidates, 1]
        return [int(candidates[(answers @ own[0]).argmax()]) if there[n, 0] else None for n, own in enumerate(features)]

    def confusion(self, evidence: tuple[np.ndarray, ...]) -> None:
        """There are no classes."""

    def trivial(self, true: Sequence[np.ndarray]) -> dict[str, float]:
        """Expected of a random order."""
        recalls, found = [], {}
        for name, way in zip(_directions(self.streams), both_ways(true), strict=True):
            counts, among = way.right(slice(None)).sum(1), len(way.candidates)
            own = {f"{name}_recall_at_{k}": chance(counts, among, k) for k in RANKS}
            recalls += own.values()
            found |= own | {f"{name}_median_rank": float(np.median((among + 1) / (counts + 1)))}
        return {"mean_recall": float(np.mean(recalls)), **found}


def info_nce(
    features: Float[Tensor, "B 2 E"], items: Int[Tensor, "B 2"], there: Bool[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """-log softmax of the own half among those of all ranks' rows, a mean over both directions.

    Args:
        features: whose inner products are logits.
        items: what is the same in two rows is neither right nor wrong; below 0 it is like no other.
        there: rows that are pairs; what the others come to means nothing.
    """
    every, first = of_all_ranks(features)
    every_item, every_there = of_all_ranks(items)[0], of_all_ranks(there)[0]
    own = first + torch.arange(len(features), device=features.device)
    alike = ((items.unsqueeze(1) == every_item) & (items >= 0).unsqueeze(1)).any(2)
    out = (alike | ~every_there).scatter(1, own.unsqueeze(1), value=False)
    total = torch.zeros_like(features[:, 0, 0])
    for ask in (0, 1):
        logits = (features[:, ask] @ every[:, 1 - ask].T).masked_fill(out, -torch.inf)
        total = total + cross_entropy(logits, own, reduction="none")
    return total / 2


class Way(NamedTuple):
    """Asking by one stream for the other."""

    items: Int[np.ndarray, " B"]  # what each sample asks with
    candidates: Int[np.ndarray, " n"]  # samples whose other halves are all that there are, each once
    belongs: Bool[np.ndarray, "q n"]  # which of them belong to each item

    def right(self, queries: slice) -> Bool[np.ndarray, "q n"]:
        """For some of the samples."""
        return self.belongs[self.items[queries]]


def both_ways(true: Sequence[Int[np.ndarray, " 2"]]) -> tuple[Way, Way]:
    """From the first stream to the second, and back."""
    given = np.stack(true)
    apart = -2 - np.arange(len(given))
    first, second = (
        np.unique(np.where(own < 0, apart, own), return_index=True, return_inverse=True) for own in given.T
    )
    belongs = np.zeros((len(first[0]), len(second[0])), dtype=bool)
    belongs[first[2], second[2]] = True
    return Way(first[2], second[1], belongs), Way(second[2], first[1], belongs.T)


def ranks_of(true: Sequence[Int[np.ndarray, " 2"]], features: Float[np.ndarray, "B 2 E"]) -> Int[np.ndarray, "B 2"]:
    """The rank, from 1, of the best right item, for the first stream's question and for the second's."""
    columns = []
    for ask, way in enumerate(both_ways(true)):
        answers, parts = features[way.candidates, 1 - ask], []
        for start in range(0, len(features), CHUNK):
            queries = slice(start, start + CHUNK)
            parts.append(first_ranks(features[queries, ask] @ answers.T, way.right(queries)))
        columns.append(np.concatenate(parts))
    return np.stack(columns, axis=1)


def metrics_of(streams: tuple[str, ...]) -> dict[str, Metric]:
    """Mean of all recalls, then each recall and the median rank, both ways."""
    metrics = {"mean_recall": Metric(lambda ranks: float(np.mean([(ranks <= k).mean() for k in RANKS])))}
    for way, name in enumerate(_directions(streams)):
        for k in RANKS:
            metrics[f"{name}_recall_at_{k}"] = Metric(partial(_recall, way, k))
        metrics[f"{name}_median_rank"] = Metric(partial(_median, way), higher_is_better=False)
    return metrics


def _directions(streams: tuple[str, ...]) -> tuple[str, str]:
    return f"{streams[0]}_to_{streams[1]}", f"{streams[1]}_to_{streams[0]}"


def _recall(way: int, k: int, ranks: Int[np.ndarray, "B 2"]) -> float:
    return float((ranks[:, way] <= k).mean())


def _median(way: int, ranks: Int[np.ndarray, "B 2"]) -> float:
    return float(np.median(ranks[:, way]))


def _item(value: Any) -> int:
    """The same for the same text."""
    if not isinstance(value, str):
        return OF_ITS_OWN
    return int.from_bytes(hashlib.blake2b(value.encode(), digest_size=8).digest(), "big") >> 1
