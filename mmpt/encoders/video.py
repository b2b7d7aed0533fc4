"""Clips of video as tubelets: patches of a few frames (VideoMAE, Tong et al. 2022; ViViT, Arnab et al. 2021)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image as Picture
from torch import Tensor, nn
from torch.nn.functional import embedding

from mmpt.encoders import Encoder, Facts, Modality
from mmpt.encoders.image import check_crop, cropped, normalisation_of, normalise
from mmpt.errors import ConfigError, DataError
from mmpt.randomness import number
from mmpt.tokens import Content, Shown, Tokens
from mmpt.trunk.positions import sincos, sincos_3d

Positions = Literal["sincos", "flat", "learned"]
FRAMES = "expected a uint8 array of frames x height x width x 3, or PIL images of one size"


@dataclass(frozen=True)
class Video(Modality):
    """A square RGB clip, cut into tubelets, by time, row and column; there is no class token.

    A recording is cut into pieces of about equal length in which at least one clip fits; of each piece one clip is
    seen. Where less than `frames` times `stride` frames are there, the stride is what still fits; less than `frames`
    is refused.

    Args:
        size: pixels of a side after resizing. patch: pixels of a tubelet's side; must divide size.
        frames: of a clip. tubelet: frames of a tubelet; must divide frames.
        stride: from one frame of the clip to the next, in frames of the recording; VideoMAE has 4 or 2.
        positions: a fixed sine-cosine table whose parts stand for time, row and column; the same over the tubelets
            numbered through, as VideoMAE has it (`flat`); or a learned one.
        crop_scale: share of the picture's area that a random crop keeps in training, smallest and largest; the same for
            all frames.
        flip: mirror half of the clips in training.
        shift: begin anywhere in the piece in training, else so that the clip stands in its middle.
    """

    facts: Facts
    size: int = field(default=224, kw_only=True)
    patch: int = field(default=16, kw_only=True)
    frames: int = field(default=16, kw_only=True)
    tubelet: int = field(default=2, kw_only=True)
    stride: int = field(default=4, kw_only=True)
    positions: Positions = field(default="sincos", kw_only=True)
    crop_scale: tuple[float, float] = field(default=(1.0, 1.0), kw_only=True)
    flip: bool = field(default=False, kw_only=True)
    shift: bool = field(default=False, kw_only=True)
    kind = "video"

    def __post_init__(self) -> None:
        for name, whole, part in (("patch", "size", self.patch), ("tubelet", "frames", self.tubelet)):
            total = getattr(self, whole)
            if part < 1 or total < part or total % part:
                raise ConfigError(f"{name}: {part} does not divide {whole} {total}; choose a divisor of {total}")
        if self.stride < 1:
            raise ConfigError(f"stride: expected 1 frame or more, got {self.stride}")
        check_crop(self.crop_scale)

    @property
    def augments(self) -> bool:
        """Cropped, mirrored or begun elsewhere."""
        return self.flip or self.shift or self.crop_scale != (1.0, 1.0)

    @property
    def side(self) -> int:
        """Tubelets along one side."""
        return self.size // self.patch

    @property
    def times(self) -> int:
        """Tubelets one after the other."""
        return self.frames // self.tubelet

    @property
    def num_patches(self) -> int:
        """N: tubelets of a clip."""
        return self.times * self.side**2

    @property
    def patch_numbers(self) -> int:
        """P: numbers of a tubelet, by frame, row, column and channel."""
        return 3 * self.tubelet * self.patch**2

    def normalisation(self) -> tuple[Float[Tensor, " 3"], Float[Tensor, " 3"]]:
        """Mean and standard deviation of each channel, of values in [0, 1], from the data set's statistics."""
        return normalisation_of(self.facts)

    @property
    def span(self) -> int:
        """Frames of a recording that a clip reaches over."""
        return self.frames * self.stride

    @property
    def limit(self) -> int:
        """Just less than two clips."""
        return 2 * self.span - 1

    def convert(self, value: Any) -> UInt8[np.ndarray, "T H W 3"]:
        """An array of uint8 frames, or PIL images -> frames of RGB."""
        if isinstance(value, Sequence) and value and all(isinstance(frame, Picture.Image) for frame in value):
            sizes = sorted({frame.size for frame in value})
            if len(sizes) > 1:
                raise DataError(f"{FRAMES}, got frames of {' and '.join(f'{w} x {h}' for w, h in sizes)}")
            value = np.stack([np.asarray(frame.convert("RGB")) for frame in value])
        if not isinstance(value, np.ndarray):
            raise DataError(f"{FRAMES}, got {type(value).__name__}")
        if value.dtype != np.uint8 or value.ndim != 4 or value.shape[3] != 3 or not value.size:
            raise DataError(f"{FRAMES}, got {value.dtype} of {' x '.join(map(str, value.shape))}")
        return value

    def pieces(self, length: int) -> list[tuple[int, int]]:
        """As many as whole clips fit, about equally long; a shorter recording is one piece."""
        count = max(1, length // self.span)
        edges = [number * length // count for number in range(count + 1)]
        return list(pairwise(edges)) if length else []

    def num_tokens(self, start: int, stop: int) -> int:
        """Always a whole clip."""
        return self.num_patches

    def read(
        self, value: UInt8[np.ndarray, "T H W 3"], start: int, stop: int, draw: int | None
    ) -> UInt8[np.ndarray, "N P"]:
        """Tubelets of one clip of the piece; cropped and mirrored as one."""
        clip = value[self._places(min(stop, len(value)) - start, draw) + start]
        box = cropped((clip.shape[2], clip.shape[1]), self.crop_scale, draw)
        size, filtering = (self.size, self.size), Picture.Resampling.BICUBIC
        pixels = np.stack([np.asarray(Picture.fromarray(frame).resize(size, filtering, box=box)) for frame in clip])
        if draw is not None and self.flip and number(draw, "flip") < 0.5:
            pixels = pixels[:, :, ::-1]
        grid = pixels.reshape(self.times, self.tubelet, self.side, self.patch, self.side, self.patch, 3)
        return grid.transpose(0, 2, 4, 1, 3, 5, 6).reshape(self.num_patches, self.patch_numbers)

    def _places(self, available: int, draw: int | None) -> np.ndarray:
        if available < self.frames:
            there = f"{max(available, 0)} frames, where a clip has {self.frames}"
            raise DataError(f"{there}; leave it out, or lower the stream's frames")
        stride = min(self.stride, (available - 1) // max(self.frames - 1, 1))
        room = available - (self.frames - 1) * stride  # first frames that a clip can have
        first = int(number(draw, "first frame") * room) if draw is not None and self.shift else (room - 1) // 2
        return first + stride * np.arange(self.frames)

    def collate(self, rows: Sequence[Sequence[np.ndarray]], size: int | None) -> Content:
        """One clip a row; tubelets (B, N, P) uint8."""
        shape = (len(rows), self.num_patches)
        values, valid = np.zeros((*shape, self.patch_numbers), np.uint8), np.zeros(shape, dtype=bool)
        for line, row in enumerate(rows):
            for patches in row:
                values[line], valid[line] = patches, True
        place = np.broadcast_to(np.arange(shape[1]), shape).copy()
        full = bool(valid.all())
        tensors = map(torch.from_numpy, (values, valid, valid.copy(), np.zeros(shape, np.int64), place))
        return Content(*tensors, full=full, observed_count=self.num_patches if full else None)

    def token_names(self, content: Content, row: int) -> list[str]:
        """Frames, row and column of every tubelet, counted from 0."""
        places, valid = content.place[row].tolist(), content.valid[row].tolist()
        return [self._name(place) if real else "" for place, real in zip(places, valid, strict=True)]

    def _name(self, place: int) -> str:
        time, within = divmod(place, self.side**2)
        first = time * self.tubelet
        when = f"frame {first}" if self.tubelet == 1 else f"frames {first} to {first + self.tubelet - 1}"
        return f"{when} row {within // self.side} column {within % self.side}"

    def encoder(self, width: int) -> "VideoEncoder":
        """A linear map of tubelets, and positions."""
        return VideoEncoder(self, width)


class VideoEncoder(Encoder):
    """Tubelets -> tokens; a hidden tubelet's pixels reach no other token."""

    tokenwise = True
    mean: Tensor
    std: Tensor

    def __init__(self, video: Video, width: int) -> None:
        super().__init__()
        mean, std = video.normalisation()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.projection = nn.Linear(video.patch_numbers, width)
        nn.init.xavier_uniform_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)
        self.times, self.side, self.flat = video.times, video.side, video.positions == "flat"
        table = self.place_table(width)
        if video.positions == "learned":
            self.position = nn.Parameter(torch.randn_like(table) * 0.02)
        else:
            self.register_buffer("position", table, persistent=False)

    def forward(self, content: Content) -> Tokens:
        """Tubelets (B, N, P) -> tokens (B, N, D)."""
        x = self.projection(normalise(content.values, self.mean, self.std))
        position = embedding(content.place, self.position).to(x.dtype)
        nowhere = torch.zeros_like(content.place)
        return Tokens(x, position, nowhere, content.valid, content.segment, nowhere, content.full)

    def settle(self, shown: Shown, size: int) -> Shown:
        """Nothing to add."""
        return shown

    def substitute(self, content: Content, choice: Float[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
        """Another tubelet of the same clip, hidden ones among them."""
        index = (choice * content.values.shape[1]).long()
        chosen = content.values.gather(1, index.unsqueeze(2).expand_as(content.values))
        return self.projection(normalise(chosen, self.mean, self.std))

    def place_table(self, width: int) -> Float[Tensor, "N W"]:
        """Sine-cosine of time, row and column, or of the number of the tubelet, sines and cosines by turns."""
        if not self.flat:
            return sincos_3d(self.times, self.side, self.side, width)
        table = sincos(torch.arange(self.times * self.side**2).float(), width)
        return table.unflatten(1, (2, -1)).transpose(1, 2).flatten(1)
