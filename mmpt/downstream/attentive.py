"""An attentive probe: a learned query over frozen tokens with a linear layer behind it."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from sklearn.metrics import accuracy_score
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from mmpt.downstream.classify import Choice, Fold, Score, best_of
from mmpt.pools import TokenLatents
from mmpt.pools.attention import AttentionPool

UPDATES = (25, 50, 100, 200, 400)  # after which the judging rows are asked
WITHOUT_JUDGES = 100  # updates where there is nothing to judge by
PATIENCE = 2  # judgements in a row that are worse than the best
RATE, DECAY = 3e-3, 0.05  # of AdamW; the rate is the fine-tuning strategy's
BATCHES = (32, 256)  # smallest and largest
EVALUATED = 256  # rows at once


class FrozenTokens(NamedTuple):
    """Tokens of all samples."""

    samples: tuple[Float[Tensor, "N D"], ...]
    device: torch.device  # to compute on

    @property
    def width(self) -> int:
        """D."""
        return self.samples[0].shape[1]

    def rows(self, numbers: np.ndarray) -> dict[str, TokenLatents]:
        """Some samples, padded to the longest, as pools take them."""
        own = [self.samples[number] for number in numbers.tolist()]
        latents = pad_sequence(own, batch_first=True).to(self.device)
        place = torch.arange(latents.shape[1], device=self.device).expand(latents.shape[:2])
        valid = place < torch.tensor([len(sample) for sample in own], device=self.device).unsqueeze(1)
        return {"every": TokenLatents(latents, valid, valid, place)}


class AttentiveHead(nn.Module):
    """Logits from tokens."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.pool = AttentionPool(width, heads=next(heads for heads in (4, 2, 1) if width % heads == 0))
        self.last = nn.Linear(width, classes)

    def forward(self, streams: dict[str, TokenLatents]) -> Float[Tensor, "B V"]:
        """One row a sample."""
        return self.last(self.pool(streams))


def attentive_probe(
    tokens: FrozenTokens,
    labels: np.ndarray,
    folds: Sequence[Fold],
    train: np.ndarray,
    test: np.ndarray,
    score: Score = accuracy_score,
    seed: int = 0,
) -> Choice:
    """A learned query and a linear layer, by AdamW, for as many updates as give the best mean score over the folds.

    Which samples make which batch, and the first weights, depend on `seed` alone.
    """
    updates = _updates(tokens, labels, folds, score, seed) if folds else WITHOUT_JUDGES
    *_, head = _trained(tokens, labels, train, seed, (updates,))
    return Choice(_predicted(head, tokens, test), updates)


def _updates(tokens: FrozenTokens, labels: np.ndarray, folds: Sequence[Fold], score: Score, seed: int) -> int:
    """Of the best mean score; longer training is not tried once scores fall."""
    judges = [judge for _, judge in folds]
    scores: list[float] = []
    for heads in zip(*(_trained(tokens, labels, fit, seed, UPDATES) for fit, _ in folds), strict=True):
        each = [
            score(labels[judge], _predicted(head, tokens, judge)) for head, judge in zip(heads, judges, strict=True)
        ]
        scores.append(float(np.mean(each)))
        if max(scores[-PATIENCE:]) < max(scores):
            break
    return UPDATES[best_of(np.array(scores))]


def _trained(
    tokens: FrozenTokens, labels: np.ndarray, fit: np.ndarray, seed: int, stops: Sequence[int]
) -> Iterator[AttentiveHead]:
    """The head after so many updates each; it goes on from one to the next."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = AttentiveHead(tokens.width, int(labels.max()) + 1).to(tokens.device)
    optimizer = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=DECAY)
    batches = _batches(fit, np.random.default_rng(seed))
    done = 0
    for stop in stops:
        for _ in range(stop - done):
            rows = next(batches)
            loss = cross_entropy(head(tokens.rows(rows)), torch.from_numpy(labels[rows]).to(tokens.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        done = stop
        yield head


def _batches(fit: np.ndarray, random: np.random.Generator) -> Iterator[np.ndarray]:
    """Epoch after epoch, each in an order of its own."""
    smallest, largest = BATCHES
    size = min(len(fit), largest, max(smallest, len(fit) // 50))
    while True:
        order = random.permutation(fit)
        for start in range(0, len(order) - size + 1, size):
            yield order[start : start + size]


@torch.no_grad()
def _predicted(head: AttentiveHead, tokens: FrozenTokens, rows: np.ndarray) -> np.ndarray:
    parts = [head(tokens.rows(rows[start : start + EVALUATED])) for start in range(0, len(rows), EVALUATED)]
    return torch.cat(parts).argmax(1).cpu().numpy()
