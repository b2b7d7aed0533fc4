"""Several masks of one sample in one step (data2vec 2.0, Baevski et al. 2022, section 3.3)."""

import torch
from jaxtyping import Shaped
from torch import Tensor

from mmpt.objectives import Guide, Hidden, Loss
from mmpt.randomness import fold
from mmpt.tokens import Batch, Content


def repeated(batch: Batch, times: int) -> Batch:
    """All rows once for every mask; those of the first mask come first and draw what they would draw alone."""
    if times == 1:
        return batch
    streams = {name: _repeated(content, times) for name, content in batch.streams.items()}
    draws = [batch.draw, *(fold(batch.draw, f"mask {number}") for number in range(1, times))]
    matched = None if batch.matched is None else repeated_rows(batch.matched, times)
    uid = repeated_rows(batch.uid, times)
    return batch._replace(streams=streams, uid=uid, draw=torch.cat(draws), matched=matched)


def _repeated(content: Content, times: int) -> Content:
    tensors = (repeated_rows(tensor, times) for tensor in content[:5])
    aside = {name: getattr(content, name) for name in ("units", "scores")}
    aside = {name: None if own is None else repeated_rows(own, times) for name, own in aside.items()}
    return content._replace(**dict(zip(Content._fields[:5], tensors, strict=True)), **aside)


def repeated_rows(x: Shaped[Tensor, "B ..."], times: int, *, dim: int = 0) -> Shaped[Tensor, "_ ..."]:
    """The same rows for every mask."""
    return x if times == 1 else torch.cat([x] * times, dim=dim)


def of_samples(loss: Loss, samples: int) -> Loss:
    """With what each sample's masks cost it."""
    return loss._replace(rows=loss.rows.view(-1, samples).sum(0))


def first_mask(hidden: Hidden, samples: int) -> Hidden:
    """What the first mask of every sample hides."""
    guide = None if hidden.guide is None else Guide(*(part[:samples] for part in hidden.guide))
    weight = None if hidden.weight is None else hidden.weight[:samples]
    return hidden._replace(hidden=hidden.hidden[:samples], scored=hidden.scored[:samples], guide=guide, weight=weight)
