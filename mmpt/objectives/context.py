"""What a stream's parts may look at in one step."""

from jaxtyping import Int
from torch import Tensor

from mmpt.randomness import fold
from mmpt.tokens import Batch, Siblings, StreamContext


def context_of(batch: Batch, stream: str, progress: float) -> StreamContext:
    """The context of one stream; its random numbers are its own."""
    draw: Int[Tensor, " B"] = fold(batch.draw, stream)
    return StreamContext(batch.streams[stream], draw, progress)


def contexts_of(batch: Batch, progress: float) -> dict[str, StreamContext]:
    """The contexts of all streams of a batch, which know of one another."""
    alone = {name: context_of(batch, name, progress) for name in batch.streams}
    maskable = {name: context.maskable.sum(1) for name, context in alone.items()}
    return {name: context._replace(siblings=Siblings(name, batch.draw, maskable)) for name, context in alone.items()}
