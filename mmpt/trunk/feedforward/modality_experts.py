"""A feed-forward network for every stream, beside attention that they share (EVE, Chen et al. 2023, section 3.1)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmpt.trunk import Surroundings
from mmpt.trunk.feedforward import FeedForward
from mmpt.trunk.mlp import Mlp


class ModalityExperts(FeedForward):
    """A token goes through the network of its stream; no gate, and the arithmetic of one dense network.

    Streams stand side by side, so that each network gets a slice whose size is known without a look at the device. The
    network of a stream that the batch lacks gets an empty slice, which leaves it gradients of zero.

    The paper has a LayerNorm for each network, too. The block's one norm says the same: a scale and shift of one's own
    before a linear map of one's own add nothing that the map couldn't do by itself.

    Args:
        ratio: hidden width of each as a multiple of D.
    """

    def __init__(self, width: int, streams: int, *, ratio: float = 4.0) -> None:
        super().__init__()
        self.experts = nn.ModuleList(Mlp(width, int(width * ratio)) for _ in range(streams))

    def forward(self, x: Float[Tensor, "B S D"], around: Surroundings) -> tuple[Float[Tensor, "B S D"], None]:
        """Needs `around.columns`."""
        if sum(size for _, size in around.columns) != x.shape[1]:
            raise ValueError(f"columns {around.columns} don't add up to the {x.shape[1]} tokens of a row")
        parts = x.split([size for _, size in around.columns], dim=1)
        changes = [self.experts[stream](part) for (stream, _), part in zip(around.columns, parts, strict=True)]
        here = {stream for stream, _ in around.columns}
        changes += [expert(x[:, :0]) for stream, expert in enumerate(self.experts) if stream not in here]
        return torch.cat(changes, dim=1), None
