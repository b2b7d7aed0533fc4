"""The values of hidden cells: squared error of numbers, cross-entropy of categories (MEDFuse, Phan et al. 2024)."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import log_softmax

from mmpt.encoders import Modality
from mmpt.encoders.cell_values import ColumnKinds
from mmpt.encoders.labs import Labs
from mmpt.errors import ConfigError
from mmpt.objectives.targets import Target
from mmpt.tokens import StreamContext


class CellsTarget(Target):
    """One number, and one of the categories of the cell's own column; a cell is scored by the one that it holds."""

    own: Tensor

    def __init__(self, modality: Modality) -> None:
        super().__init__()
        if not isinstance(modality, Labs):
            raise ConfigError("target 'cells' has a meaning for labs only; use token_ids for text or pixels for images")
        self.kinds = ColumnKinds(modality.columns)
        self.size = 1 + self.kinds.size
        number = torch.arange(self.kinds.size)
        first, count = self.kinds.first.unsqueeze(1), self.kinds.count.unsqueeze(1)
        own = (number >= first) & (number < first + count)
        # a numeric column has every category for its own, so that no row of the softmax is empty
        self.register_buffer("own", own | self.kinds.numeric.unsqueeze(1), persistent=False)

    def forward(self, context: StreamContext) -> Float[Tensor, "B N 2"]:
        """Standardised number, or the category's number among all columns', and the column."""
        content = context.content
        values = torch.where(content.valid, content.values, 0.0)
        category = self.kinds.category(values, content.place).to(values.dtype)
        values = torch.where(self.kinds.numeric[content.place], values, category)
        return torch.stack([values, content.place.to(values.dtype)], dim=2)

    def loss(self, prediction: Float[Tensor, "M P"], target: Float[Tensor, "M 2"]) -> Float[Tensor, " M"]:
        """Squared error in standard deviations, or nats."""
        prediction, value, column = prediction.float(), target[:, 0], target[:, 1].long()
        error = (prediction[:, 0] - value).square()
        if not self.kinds.size:
            return error
        numeric = self.kinds.numeric[column]
        chances = log_softmax(self._logits(prediction, column), dim=1)
        category = torch.where(numeric, 0, value.long()).unsqueeze(1)
        return torch.where(numeric, error, -chances.gather(1, category).squeeze(1))

    def likeliest(self, prediction: Float[Tensor, "M P"], column: Int[Tensor, " M"]) -> Float[Tensor, " M"]:
        """The number predicted, or the likeliest category's number in its own column."""
        prediction = prediction.float()
        if not self.kinds.size:
            return prediction[:, 0]
        category = self._logits(prediction, column).argmax(dim=1) - self.kinds.first[column]
        return torch.where(self.kinds.numeric[column], prediction[:, 0], category.to(prediction.dtype))

    def _logits(self, prediction: Float[Tensor, "M P"], column: Int[Tensor, " M"]) -> Float[Tensor, "M K"]:
        """Of the column's own categories; the others can't be."""
        own: Bool[Tensor, "M K"] = self.own[column]
        return prediction[:, 1:].masked_fill(~own, -torch.inf)
