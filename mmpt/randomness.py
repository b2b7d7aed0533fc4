"""Counter-based random numbers: every draw is a pure function of integers and a purpose.

The generator is the finaliser of SplitMix64 (Steele, Lea, Flood, 2014) in wrapping 64-bit arithmetic, so a draw is the
same on any device, for any number of ranks and workers, and after any resume. No state is kept anywhere.
"""

import zlib
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

_BITS = 64
_ALL = (1 << _BITS) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_TRIES = 16


def _signed(value: int) -> int:
    value %= 1 << _BITS
    return value - (1 << _BITS) if value >= 1 << (_BITS - 1) else value


def _shifted(x: Int[Tensor, "..."], bits: int) -> Int[Tensor, "..."]:
    """Logical shift right; torch's own is arithmetic."""
    return (x >> bits) & ((1 << (_BITS - bits)) - 1)


def _mix(x: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    x = (x ^ _shifted(x, 30)) * _signed(_FIRST)
    x = (x ^ _shifted(x, 27)) * _signed(_SECOND)
    return x ^ _shifted(x, 31)


@lru_cache(maxsize=1024)
def _number(purpose: str) -> int:
    return zlib.crc32(purpose.encode())


def fold(key: Int[Tensor, "..."], value: Int[Tensor, "..."] | int | str) -> Int[Tensor, "..."]:
    """A new key from a key and a value (an integer, a purpose, or a tensor that broadcasts); int64."""
    number = _number(value) if isinstance(value, str) else value
    if isinstance(number, int):
        return _mix(key * _signed(_GOLDEN) + _signed(_mix_integer(number)))
    return _mix(key * _signed(_GOLDEN) + _mix(number.to(torch.int64) + _signed(_GOLDEN)))


def _mix_integer(value: int) -> int:
    """`_mix` of one integer, without torch's overhead."""
    x = (value + _GOLDEN) & _ALL
    return _signed(_mix_plain(x))


def _mix_plain(x: int) -> int:
    x = (x ^ (x >> 30)) * _FIRST & _ALL
    x = (x ^ (x >> 27)) * _SECOND & _ALL
    return x ^ (x >> 31)


def number(key: int, purpose: str) -> float:
    """`uniform(fold(key, purpose))` of one key: for a worker that needs a number or two a sample."""
    folded = _mix_plain((key * _GOLDEN + _mix_integer(_number(purpose))) & _ALL)
    return ((_mix_plain(folded) >> 11) + 0.5) * 2.0**-53


def key(*values: int | str) -> int:
    """One integer key from integers and purposes."""
    state = torch.zeros((), dtype=torch.int64)
    for value in values:
        state = fold(state, value)
    return int(state)


def uniform(keys: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """One number in (0, 1) a key, float64 with 53 random bits: ties are as good as impossible."""
    return (_shifted(_mix(keys), 11).to(torch.float64) + 0.5) * 2.0**-53


def uniform_rows(keys: Int[Tensor, " B"], count: int, purpose: str) -> Float[Tensor, "B count"]:
    """`count` numbers in (0, 1) a row, each row from its own key."""
    counter = torch.arange(count, device=keys.device)
    return uniform(fold(fold(keys, purpose).unsqueeze(1), counter))


def gamma(keys: Int[Tensor, " B"], shape: float, purpose: str) -> Float[Tensor, " B"]:
    """One number a key from the gamma distribution of this shape and scale 1 (Marsaglia and Tsang 2000), float64.

    Of a fixed number of tries the first that is accepted; each is with more than 95 %.
    """
    boosted = shape + 1 if shape < 1 else shape
    offset = boosted - 1 / 3
    lots = uniform_rows(keys, 3 * _TRIES, purpose).unflatten(1, (_TRIES, 3))
    normal = (-2 * lots[..., 0].log()).sqrt() * (2 * torch.pi * lots[..., 1]).cos()
    cube = (1 + normal / (9 * offset) ** 0.5) ** 3
    bound = normal**2 / 2 + offset - offset * cube + offset * cube.clamp(min=1e-300).log()
    accepted = (cube > 0) & (lots[..., 2].log() < bound)
    first = accepted.to(torch.uint8).argmax(dim=1, keepdim=True)
    value = offset * cube.gather(1, first).squeeze(1)
    if shape < 1:
        value = value * uniform(fold(keys, f"{purpose} boost")) ** (1 / shape)
    return value


def permutation(count: int, *values: int | str) -> Int[Tensor, " count"]:
    """A permutation of 0..count-1 that depends on `count` and the values alone."""
    start = torch.tensor(key(*values), dtype=torch.int64)
    return fold(start, torch.arange(count)).argsort(stable=True)
