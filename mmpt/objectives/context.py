"""What a stream's parts may look at in one step."""

from jaxtyping import Int
from torch import Tensor

from mmpt.randomness import fold
from mmpt.tokens import Batch, StreamContext


def context_of(batch: Batch, stream: str, progress: float) -> StreamContext:
    """The context of one stream; its random numbers are its own."""
    draw: Int[Tensor, " B"] = fold(batch.draw, stream)
    return StreamContext(batch.streams[stream], draw, progress)
