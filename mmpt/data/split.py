"""Train, validation and test by a hash of the group: the same group lands in the same split, in every data set."""

from hashlib import blake2b

from mmpt.errors import DataError

SPLITS = ("train", "validation", "test")
Shares = tuple[float | int, float | int, float | int]


def check_shares(shares: Shares) -> Shares:
    """Three shares that sum to 1; raises DataError otherwise."""
    if len(shares) != len(SPLITS) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise DataError(f"split takes three shares (train, validation, test) that sum to 1, got {shares}")
    train, validation, test = (float(share) for share in shares)
    return train, validation, test


def split_of(group: str, shares: Shares) -> str:
    """The split of a group, from nothing but its name."""
    number = int.from_bytes(blake2b(group.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") / 2**64
    edge = 0.0
    for name, share in zip(SPLITS, shares, strict=True):
        edge += share
        if number < edge:
            return name
    return next(name for name, share in reversed(list(zip(SPLITS, shares, strict=True))) if share > 0)
