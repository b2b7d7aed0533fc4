"""Draws are pure functions of integers and purposes, and look random."""

import hashlib
import subprocess
import sys

import pytest
import torch

from mmpt.randomness import fold, key, permutation, uniform, uniform_rows

KEYS = torch.arange(20000) * 1000003 - 12345


def split_mix(state):
    """One step of SplitMix64 in Python's unbounded integers (Steele, Lea, Flood, 2014)."""
    state = (state + 0x9E3779B97F4A7C15) % 2**64
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % 2**64
    return state ^ (state >> 31)


@pytest.mark.parametrize("value", [0, 1, 12345, 2**62])
def test_the_generator_is_split_mix(value):
    golden = 0x9E3779B97F4A7C15
    state = torch.tensor(0, dtype=torch.int64)  # from key 0, fold(value) mixes mix(value + golden)
    inner = split_mix(value)
    expected = split_mix((inner - golden) % 2**64)
    assert int(fold(state, value)) % 2**64 == expected


def test_a_tensor_folds_in_like_the_integers_that_it_holds():
    values = torch.tensor([0, 1, 77, 2**40])
    folded = fold(torch.tensor(5), values)
    assert folded.tolist() == [int(fold(torch.tensor(5), int(value))) for value in values]


def test_draws_are_the_same_in_another_process():
    program = "from mmpt.randomness import key, permutation; print(key(1, 'x', -3), permutation(9, 2, 'y').tolist())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == f"{key(1, 'x', -3)} {permutation(9, 2, 'y').tolist()}"


def test_draws_never_change_from_one_version_to_the_next():
    rows = uniform_rows(torch.tensor([0, 1, -1, 2**62]), 64, "golden")
    assert hashlib.sha256(rows.numpy().tobytes()).hexdigest()[:16] == "829f7749d39b72f6"


def test_a_row_draws_the_same_whatever_stands_beside_it_and_however_many_it_draws():
    rows = uniform_rows(KEYS[:50], 30, "some purpose")
    assert torch.equal(uniform_rows(KEYS[7:8], 12, "some purpose")[0], rows[7, :12])


def test_purposes_keys_and_counters_draw_differently():
    draws = torch.cat([uniform_rows(KEYS[:100], 50, purpose).flatten() for purpose in ("a", "b", "c")])
    assert len(draws.unique()) == len(draws)
    assert key(1, 2) != key(2, 1)
    assert key(0) != key(0, 0)


def test_draws_are_uniform_and_inside_the_open_interval():
    draws = uniform(KEYS)
    assert draws.dtype == torch.float64
    assert draws.min() > 0
    assert draws.max() < 1
    counts = torch.histc(draws.float(), bins=50, min=0, max=1)
    chi_squared = ((counts - 400) ** 2 / 400).sum()
    assert chi_squared < 49 + 5 * 98**0.5


@pytest.mark.parametrize("lag", [1, 2, 7])
def test_neighbouring_draws_are_not_correlated(lag):
    flat = uniform_rows(KEYS[:1], 20000, "lag")[0] - 0.5
    rows = uniform_rows(KEYS, 1, "lag")[:, 0] - 0.5
    for draws in (flat, rows):
        assert abs((draws[:-lag] * draws[lag:]).mean() * 12) < 5 / len(draws) ** 0.5


def test_every_bit_of_a_key_changes_half_of_the_bits_of_a_draw():
    base = torch.arange(200)
    for bit in (0, 1, 31, 62):
        changed = fold(base ^ (1 << bit), "purpose") ^ fold(base, "purpose")
        ones = sum(((changed >> number) & 1).double().mean() for number in range(64))
        assert abs(ones - 32) < 2


def test_a_permutation_holds_every_number_once_and_depends_on_its_key():
    first, second = permutation(1000, 3, "order"), permutation(1000, 4, "order")
    assert torch.equal(first.sort().values, torch.arange(1000))
    assert (first != second).double().mean() > 0.95
    assert torch.equal(first, permutation(1000, 3, "order"))
    assert permutation(0, 1).tolist() == []


def test_permutations_are_uniform():
    seen = [tuple(permutation(3, seed, "fair").tolist()) for seed in range(3000)]
    assert all(abs(seen.count(order) - 500) < 5 * 500**0.5 for order in set(seen))
    assert len(set(seen)) == 6
