"""Tables of learned positions for another size of picture or length of text."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from mmpt.encoders import Modality
from mmpt.encoders.image import Image
from mmpt.encoders.text import Text
from mmpt.errors import ConfigError

TABLES: dict[type[Modality], str] = {Text: "place_embedding.weight", Image: "position"}
CLOSE = 1e-5  # between a learned table and the fixed one


def placed(
    weights: Mapping[str, Tensor], old: Modality, new: Modality, width: int, where: str
) -> tuple[dict[str, Tensor], list[str]]:
    """An encoder's weights for a modality of another size, and notices of what was made anew.

    Args:
        weights: the encoder's, without what stands before their names.
        old: the modality that they are of.
        new: the one that they are wanted for; of the same kind.
        width: of the trunk.
        where: what they are of, for messages.

    Raises:
        ConfigError: positions of another kind.
    """
    name = TABLES.get(type(new))
    if name is None or not isinstance(new, Text | Image) or not isinstance(old, Text | Image):
        return dict(weights), []
    before, now = old.positions, new.positions
    if "rotary" in (before, now) and before != now:
        raise ConfigError(f"positions: {now} here and {before} in {where}; set positions: {before}")
    if before == "learned" and now == "learned":
        table, notice = resized(weights[name], old, new, where)
        return {**weights, name: table}, notice
    if before == "learned":
        fixed = old.encoder(width).place_table(width)
        if (weights[name] - fixed).abs().max() > CLOSE:
            raise ConfigError(f"positions: {where} has learned ones, the recipe a fixed table; set positions: learned")
        return {other: value for other, value in weights.items() if other != name}, []
    if now == "learned":
        return {**weights, name: new.encoder(width).place_table(width)}, []
    return dict(weights), []


def resized(table: Float[Tensor, "N D"], old: Modality, new: Modality, where: str) -> tuple[Tensor, list[str]]:
    """A learned table for another size, with a notice; the table itself where the size is the same."""
    if isinstance(old, Image) and isinstance(new, Image) and old.side != new.side:
        told = f"{old.side} x {old.side} positions of {where} were interpolated to {new.side} x {new.side}"
        return resized_grid(table, new.side), [told]
    if isinstance(old, Text) and isinstance(new, Text) and old.max_length > new.max_length:
        return table[: new.max_length], [
            f"the first {new.max_length} of {old.max_length} positions of {where} were taken"
        ]
    if isinstance(old, Text) and isinstance(new, Text) and old.max_length < new.max_length:
        told = f"{old.max_length} positions of {where} were interpolated to {new.max_length}"
        return lengthened(table, new.max_length), [told]
    return table, []


def resized_grid(table: Float[Tensor, "N D"], side: int) -> Float[Tensor, "M D"]:
    """A class token's row and a square grid -> the same with `side` rows and columns; bicubic, as timm does it."""
    first, grid = table[:1], table[1:]
    old = round(len(grid) ** 0.5)
    picture = grid.view(1, old, old, -1).permute(0, 3, 1, 2).float()
    picture = interpolate(picture, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([first, picture.permute(0, 2, 3, 1).flatten(0, 2).to(table.dtype)])


def lengthened(table: Float[Tensor, "N D"], length: int) -> Float[Tensor, "M D"]:
    """More rows, along lines between the old ones; the first and the last row stay."""
    line = interpolate(table.t().unsqueeze(0).float(), size=length, mode="linear", align_corners=True)
    return line[0].t().contiguous().to(table.dtype)
