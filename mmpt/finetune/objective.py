"""Learning what labels say: one loss a labelled row, token or pixel, from latents of complete samples."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmpt.objectives import Hidden, Loss, Objective, Prediction, Step
from mmpt.pools import TokenLatents
from mmpt.pools.beside import LossBeside
from mmpt.tokens import Batch, Labels

if TYPE_CHECKING:
    from mmpt.model import Backbone

NAME = "task"
LossFunction = Callable[[Tensor, Batch], Tensor]  # outputs of the head -> a loss for each label


class Supervised(Objective):
    """A head on the backbone; nothing is hidden.

    Args:
        head: latents by stream -> outputs (B ...). Those of its modules that are a `LossBeside` add a loss each.
        loss: outputs and batch -> one number for each of `labels.known`; those that are not known count nothing.
        alone: every stream goes through the trunk by itself, and knows nothing of the others.
    """

    def __init__(self, head: nn.Module, loss: LossFunction, *, alone: bool = False) -> None:
        super().__init__()
        self.head, self.loss, self.alone = head, loss, alone
        self.beside = tuple(part for part in head.modules() if isinstance(part, LossBeside) and part.weight)

    def weights(self) -> dict[str, float]:
        """The task's loss, and those beside it."""
        return {NAME: 1.0, **{part.name: part.weight for part in self.beside}}

    @torch.no_grad()
    def hide(self, batch: Batch, progress: float) -> dict[str, Hidden]:
        """Nothing; the denominator is how many labels there are, or labelled rows that a loss beside it counts."""
        known = labels_of(batch).known
        known = known.flatten(1) if known.ndim > 1 else known.unsqueeze(1)
        scored = {NAME: known}
        for part in self.beside:
            scored[part.name] = known.any(1, keepdim=True) & part.counted(batch.streams).unsqueeze(1)
        return {name: Hidden(torch.zeros_like(own), own, 0, own.sum().float()) for name, own in scored.items()}

    def forward(self, backbone: "Backbone", batch: Batch, hidden: dict[str, Hidden], progress: float) -> Step:
        """The sum over what is labelled."""
        labels = labels_of(batch)
        each = self.loss(self.outputs(backbone, batch), batch).float()
        each = torch.where(labels.known, each, 0.0)
        rows = each.flatten(1).sum(1) if each.ndim > 1 else each
        total, zero = rows.sum(), rows.new_zeros(())
        losses = {NAME: Loss(total, rows.detach())}
        metrics = {f"{NAME}/loss": (total.detach(), labels.known.sum().float())}
        for part in self.beside:
            counted = hidden[part.name].scored.squeeze(1)
            own = part.loss(counted)
            losses[part.name] = Loss(own.sum(), own.detach())
            metrics[part.name] = (own.detach().sum(), counted.sum().float())
        return Step(losses, zero, zero, metrics)

    def outputs(self, backbone: "Backbone", batch: Batch) -> Float[Tensor, "B ..."]:
        """What the head says of every row."""
        if not self.alone:
            return self.head(latents_by_stream(backbone, batch))
        latents: dict[str, TokenLatents] = {}
        for name, content in batch.streams.items():
            latents |= latents_by_stream(backbone, batch._replace(streams={name: content}))
        return self.head(latents)

    def touch(self, backbone: "Backbone", batch: Batch) -> Float[Tensor, ""]:
        """Nothing to touch: every batch has all inputs, if only as padding, and other encoders are frozen."""
        return batch.draw.new_zeros((), dtype=torch.float32)

    def after_update(self, backbone: "Backbone", progress: float) -> None:
        """Losses beside the task's may have weights of their own."""
        for part in self.beside:
            part.after_update()

    def predict(self, backbone: "Backbone", batch: Batch, hidden: dict[str, Hidden]) -> dict[str, Prediction]:
        """Nothing is hidden, so nothing is predicted of it."""
        return {}


def latents_by_stream(backbone: "Backbone", batch: Batch) -> Mapping[str, TokenLatents]:
    """Complete samples through the backbone."""
    return {
        name: TokenLatents(
            tokens.x.float(), batch.streams[name].valid, batch.streams[name].observed, batch.streams[name].place
        )
        for name, tokens in backbone(batch).items()
    }


def labels_of(batch: Batch) -> Labels:
    """What is to be learned; a batch of fine-tuning always says."""
    if batch.labels is None:
        raise ValueError("a supervised step needs a batch with labels")
    return batch.labels
