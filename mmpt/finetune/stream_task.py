"""Tasks that say something of every token of one stream."""

from abc import abstractmethod

from torch import nn

from mmpt.downstream.encoder import Encoder
from mmpt.errors import ConfigError
from mmpt.finetune.heads import TokenHead
from mmpt.finetune.tasks import Inputs, Task


class StreamTask(Task):
    """Something said of every token of one stream.

    Args:
        encoder, label: see `Task`.
        stream: whose tokens they are.
        inputs: the streams to look at, `stream` among them; by default it alone.
    """

    def __init__(self, encoder: Encoder, *, label: str, stream: str, inputs: Inputs) -> None:
        super().__init__(encoder, label=label, inputs=inputs or (stream,))
        if stream not in self.inputs:
            raise ConfigError(f"inputs: '{stream}' is tagged and not among {', '.join(self.inputs)}; add it")
        self.stream, self.modality = stream, encoder.modalities[stream]

    @property
    @abstractmethod
    def size(self) -> int:
        """Outputs of the head for each token."""

    def head(self) -> nn.Module:
        """A linear map of every token."""
        return TokenHead(self.stream, self.encoder.width, self.size)
