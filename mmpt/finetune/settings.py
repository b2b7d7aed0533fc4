"""How a fit goes."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """Settings of `Task.fit`.

    Args:
        epochs: over the training samples; the best one by the metric is kept.
        batch_size: rows of an update, over all ranks.
        learning_rate: None takes the strategy's.
        weight_decay: of matrices. warmup_share: of all updates, in which the rate rises; it falls along a cosine then.
        metric: that epochs are compared by; None takes the task's first.
        patience: epochs without a better one after which the fit ends; None goes through all.
        augment: whether pictures are cropped and flipped in training as they were in pretraining.
        seed: of the head's weights, the order and everything else that is drawn.
        precision: `bf16` through autocast, or `fp32`; `auto` takes bf16 on CUDA devices that have it.
        deepspeed: DeepSpeed's own configuration.
    """

    epochs: int = 10
    batch_size: int = 32
    learning_rate: float | None = None
    weight_decay: float = 0.05
    warmup_share: float = 0.1
    metric: str | None = None
    patience: int | None = None
    augment: bool = True
    seed: int = 0
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    deepspeed: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience: expected at least 1 epoch, got {self.patience}")
        if self.learning_rate is not None and self.learning_rate <= 0:
            raise ValueError(f"learning_rate: expected a positive number, got {self.learning_rate}")
        if not 0 <= self.warmup_share <= 1 or self.weight_decay < 0:
            raise ValueError(
                "warmup_share, weight_decay: expected a share and 0 or more, "
                f"got {self.warmup_share} and {self.weight_decay}"
            )
