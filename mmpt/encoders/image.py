"""Images as square patches behind a class token (Dosovitskiy et al. 2020)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image as Picture
from PIL import ImageOps
from torch import Tensor, nn
from torch.nn.functional import embedding

from mmpt.data.decode import PICTURE_ERRORS, to_rgb
from mmpt.encoders import Encoder, Facts, Modality
from mmpt.errors import ConfigError, DataError
from mmpt.randomness import number
from mmpt.tokens import Content, Shown, Tokens
from mmpt.trunk.positions import sincos_2d

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels


@dataclass(frozen=True)
class Image(Modality):
    """A square RGB picture, cut into patches; token 0 is the class token, valid but never observed.

    Args:
        size: pixels of a side after resizing. patch: pixels of a patch's side; must divide size.
        positions: the fixed two-dimensional sine-cosine table, or a learned one.
        crop_scale: share of the picture's area that a random crop keeps in training, smallest and largest.
        flip: mirror half of the pictures in training.
    """

    facts: Facts
    size: int = field(default=224, kw_only=True)
    patch: int = field(default=16, kw_only=True)
    positions: Literal["sincos", "learned"] = field(default="sincos", kw_only=True)
    crop_scale: tuple[float, float] = field(default=(1.0, 1.0), kw_only=True)
    flip: bool = field(default=False, kw_only=True)
    kind = "image"

    def __post_init__(self) -> None:
        if self.patch < 1 or self.size % self.patch:
            raise ConfigError(f"patch: {self.patch} does not divide size {self.size}; choose a divisor of {self.size}")
        check_crop(self.crop_scale)

    @property
    def augments(self) -> bool:
        """Cropped or mirrored."""
        return self.flip or self.crop_scale != (1.0, 1.0)

    @property
    def side(self) -> int:
        """Patches along one side."""
        return self.size // self.patch

    @property
    def num_patches(self) -> int:
        """Without the class token."""
        return self.side**2

    @property
    def patch_numbers(self) -> int:
        """P: numbers of a patch, by row, column and channel."""
        return 3 * self.patch**2

    def normalisation(self) -> tuple[Float[Tensor, " 3"], Float[Tensor, " 3"]]:
        """Mean and standard deviation of each channel, of values in [0, 1], from the data set's statistics."""
        return normalisation_of(self.facts)

    @property
    def limit(self) -> int:
        """One picture."""
        return 1

    def convert(self, value: Any) -> Picture.Image:
        """A PIL image or a uint8 array of H x W or H x W x (1, 3 or 4) -> an upright RGB picture."""
        expected = "expected a PIL image, a uint8 array of H x W or H x W x (1, 3 or 4), bytes or a path"
        if isinstance(value, np.ndarray):
            channels = value.shape[2] if value.ndim == 3 else 1
            if value.dtype != np.uint8 or value.ndim not in (2, 3) or channels not in (1, 3, 4) or not value.size:
                raise DataError(f"{expected}, got {value.dtype} of {' x '.join(map(str, value.shape))}")
            value = Picture.fromarray(value[:, :, 0] if value.ndim == 3 and channels == 1 else value)
        if not isinstance(value, Picture.Image):
            raise DataError(f"{expected}, got {type(value).__name__}")
        try:
            return to_rgb(ImageOps.exif_transpose(value))
        except PICTURE_ERRORS as error:
            raise DataError(f"undecodable picture ({str(error) or type(error).__name__})") from error

    def pieces(self, length: int) -> list[tuple[int, int]]:
        """Always the whole picture."""
        return [(0, length)] if length else []

    def num_tokens(self, start: int, stop: int) -> int:
        """Class token and patches."""
        return 1 + self.num_patches

    def read(self, value: Picture.Image, start: int, stop: int, draw: int | None) -> np.ndarray:
        """Patches with an empty one in front for the class token; uint8 (1 + N, P)."""
        box, mirrored = self.view(value.size, draw)
        pixels = np.asarray(value.resize((self.size, self.size), Picture.Resampling.BICUBIC, box=box), dtype=np.uint8)
        if mirrored:
            pixels = pixels[:, ::-1]
        grid = pixels.reshape(self.side, self.patch, self.side, self.patch, 3).transpose(0, 2, 1, 3, 4)
        patches = grid.reshape(self.num_patches, self.patch_numbers)
        return np.concatenate([np.zeros((1, self.patch_numbers), np.uint8), patches])

    def view(self, size: tuple[int, int], draw: int | None) -> tuple[Box, bool]:
        """What is read of a picture of this width and height: left, top, right, bottom, and whether it is mirrored."""
        return cropped(size, self.crop_scale, draw), draw is not None and self.flip and number(draw, "flip") < 0.5

    def collate(self, rows: Sequence[Sequence[np.ndarray]], size: int | None) -> Content:
        """One picture a row; patches (B, 1 + N, P) uint8."""
        shape = (len(rows), 1 + self.num_patches)
        values = np.zeros((*shape, self.patch_numbers), np.uint8)
        valid = np.zeros(shape, dtype=bool)
        for line, row in enumerate(rows):
            for patches in row:
                values[line], valid[line] = patches, True
        observed = valid.copy()
        observed[:, 0] = False
        place = np.broadcast_to(np.arange(shape[1]), shape).copy()
        arrays = (values, valid, observed, np.zeros(shape, np.int64), place)
        full = bool(valid.all())
        tensors = (torch.from_numpy(array) for array in arrays)
        return Content(*tensors, full=full, observed_count=self.num_patches if full else None)

    def token_names(self, content: Content, row: int) -> list[str]:
        """The class token, then rows and columns of patches, counted from 0."""
        places, valid = content.place[row].tolist(), content.valid[row].tolist()
        named = ["class", *(f"row {n // self.side} column {n % self.side}" for n in range(self.num_patches))]
        return [named[place] if real else "" for place, real in zip(places, valid, strict=True)]

    def encoder(self, width: int) -> "ImageEncoder":
        """A linear map of patches, a class token and positions."""
        return ImageEncoder(self, width)


def cropped(size: tuple[int, int], scale: tuple[float, float], draw: int | None) -> Box:
    """The part of a picture of width x height that is kept: its centre square, or a random part of its area.

    Args:
        size: of the picture.
        scale: smallest and largest share of the area.
        draw: keys the choice; None means none, as does a scale of 1.
    """
    if draw is None or scale == (1.0, 1.0):
        side = min(size)
        left, top = (size[0] - side) / 2, (size[1] - side) / 2
        return left, top, left + side, top + side
    smallest, largest = scale
    area = smallest + (largest - smallest) * number(draw, "crop area")
    ratio = np.exp(np.log(4 / 3) * (2 * number(draw, "crop ratio") - 1))
    width = min(size[0], (size[0] * size[1] * area * ratio) ** 0.5)
    height = min(size[1], (size[0] * size[1] * area / ratio) ** 0.5)
    left = (size[0] - width) * number(draw, "crop left")
    top = (size[1] - height) * number(draw, "crop top")
    return left, top, left + width, top + height


def check_crop(scale: tuple[float, float]) -> None:
    """Raises ConfigError for shares that no crop can keep."""
    smallest, largest = scale
    if not 0 < smallest <= largest <= 1:
        raise ConfigError(f"crop_scale: expected 0 < smallest <= largest <= 1, got {smallest} and {largest}")


def normalisation_of(facts: Facts) -> tuple[Float[Tensor, " 3"], Float[Tensor, " 3"]]:
    """Mean and standard deviation of each channel, of values in [0, 1]; a half where nothing was measured."""
    mean, std = (torch.tensor(facts.statistics.get(name, (0.5,) * 3), dtype=torch.float32) for name in ("mean", "std"))
    return mean, std.clamp(min=1e-3)


def normalise(
    patches: UInt8[Tensor, "*rows P"], mean: Float[Tensor, " 3"], std: Float[Tensor, " 3"]
) -> Float[Tensor, "*rows P"]:
    """Bytes -> values of mean 0 and standard deviation 1 over the data set, channel by channel."""
    pixels = patches.unflatten(-1, (-1, 3)).to(mean.dtype)  # a new tensor, changed in place: memory is what this costs
    return pixels.sub_(255 * mean).div_(255 * std).flatten(-2)


class ImageEncoder(Encoder):
    """Patches -> tokens; a hidden patch's pixels reach no other token."""

    tokenwise = True
    mean: Tensor
    std: Tensor

    def __init__(self, image: Image, width: int) -> None:
        super().__init__()
        mean, std = image.normalisation()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.projection = nn.Linear(image.patch_numbers, width)
        nn.init.xavier_uniform_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)
        self.class_token = nn.Parameter(torch.randn(width) * 0.02)
        self.side = image.side
        table = self.place_table(width)
        self.learned = image.positions == "learned"
        if self.learned:
            self.position = nn.Parameter(torch.randn_like(table) * 0.02)
        else:
            self.register_buffer("position", table, persistent=False)

    @property
    def neutral(self) -> UInt8[Tensor, " P"]:
        """The mean colour, to the nearest byte."""
        return (255 * self.mean).round().byte().repeat(self.projection.in_features // 3)

    def forward(self, content: Content) -> Tokens:
        """Patches (B, 1 + N, P) -> tokens (B, 1 + N, D); of the patches some may be missing, the class token never."""
        patches = self.projection(normalise(content.values[:, 1:], self.mean, self.std))  # B N D
        first = self.class_token.to(patches.dtype).expand(patches.shape[0], 1, -1)
        x = torch.cat([first, patches], dim=1)
        position = embedding(content.place, self.position).to(x.dtype)
        nowhere = torch.zeros_like(content.place)
        return Tokens(x, position, nowhere, content.valid, content.segment, nowhere, content.full)

    def settle(self, shown: Shown, size: int) -> Shown:
        """Nothing to add."""
        return shown

    def substitute(self, content: Content, choice: Float[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
        """Another patch of the same picture, hidden ones among them."""
        index = 1 + (choice * (content.values.shape[1] - 1)).long()
        chosen = content.values.gather(1, index.unsqueeze(2).expand_as(content.values))
        return self.projection(normalise(chosen, self.mean, self.std))

    def place_table(self, width: int) -> Float[Tensor, "N W"]:
        """Two-dimensional sine-cosine, zeros for the class token."""
        return torch.cat([torch.zeros(1, width), sincos_2d(self.side, self.side, width)])
