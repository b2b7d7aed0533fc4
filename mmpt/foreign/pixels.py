"""What a folder's image processor says of pixels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmpt.encoders import Facts
from mmpt.errors import ConfigError
from mmpt.foreign.folder import read_json

PREPROCESSOR = "preprocessor_config.json"
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def pixel_facts(folder: Path, usual: tuple[Sequence[float], Sequence[float]]) -> tuple[Facts, Sequence[str]]:
    """Mean and standard deviation of each channel, of values in [0, 1]; `usual` where the folder doesn't say them."""
    file = folder / PREPROCESSOR
    if not file.exists():
        notice = f"{folder}: there is no {PREPROCESSOR}; pixels are taken to have mean {usual[0]} and std {usual[1]}"
        return Facts(folder, {}, {"mean": usual[0], "std": usual[1]}), (notice,)
    plain = read_json(file)
    factor = plain.get("rescale_factor", 1 / 255)
    if not plain.get("do_rescale", True) or not isinstance(factor, int | float) or abs(factor * 255 - 1) > 1e-3:
        raise ConfigError(
            f"{file}: expected pixels divided by 255, got do_rescale {plain.get('do_rescale', True)} and "
            f"rescale_factor {factor}, which an image stream does not have"
        )
    if not plain.get("do_normalize", True):
        return Facts(folder, {}, {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}), ()
    mean, std = (
        three(plain.get(name, own), file) for name, own in zip(("image_mean", "image_std"), usual, strict=True)
    )
    return Facts(folder, {}, {"mean": mean, "std": std}), ()


def square(size: Any, name: str) -> int:
    """One number, of a number or two equal ones."""
    sides = list(size) if isinstance(size, list | tuple) else [size]
    if len(set(sides)) != 1 or not isinstance(sides[0], int):
        raise ConfigError(f"{name}: an image stream is square, and this is {size}; only square ones can be loaded")
    return sides[0]


def three(numbers: Any, file: object) -> tuple[float, ...]:
    """A number a channel, of one or three; raises ConfigError for anything else."""
    listed = list(numbers) if isinstance(numbers, list | tuple) else [numbers] * 3
    if len(listed) != 3 or not all(isinstance(number, int | float) for number in listed):
        raise ConfigError(f"{file}: expected three numbers for mean and for standard deviation, got {numbers}")
    return tuple(float(number) for number in listed)
