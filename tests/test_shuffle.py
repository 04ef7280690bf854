"""Computed permutations: one to one at any size, and as even as random ones."""

import itertools

import numpy as np
import pytest
from scipy import stats

from collapse_jax.data.shuffle import mix, permute


def permutation(size, key):
    return permute(np.arange(size), np.full(size, size), np.full(size, key))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 255, 256, 257, 1000, 65_537])
def test_one_to_one(size):
    assert sorted(permutation(size, 5).tolist()) == list(range(size))


def test_elements_do_not_depend_on_what_is_asked_beside_them():
    whole = permutation(1000, 9)
    picked = np.array([999, 3, 3, 500])
    other_sizes = permute(np.array([1, 3, 0]), np.array([5, 1000, 70]), np.array([1, 9, 4]))
    assert permute(picked, np.full(4, 1000), np.full(4, 9)).tolist() == whole[picked].tolist()
    assert other_sizes[1] == whole[3]


def test_all_orders_of_four_are_equally_frequent():
    keys = np.repeat(np.arange(24_000), 4)
    orders = permute(np.tile(np.arange(4), 24_000), np.full(96_000, 4), keys).reshape(-1, 4)
    number = {order: i for i, order in enumerate(itertools.permutations(range(4)))}
    counts = np.bincount([number[tuple(order)] for order in orders.tolist()], minlength=24)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_places_and_neighbours_are_even():
    size, trials = 23, 8000
    index = np.tile(np.arange(size), trials)
    images = permute(index, np.full(len(index), size), np.repeat(np.arange(trials) + 77, size)).reshape(
        trials, size
    )
    for place in (0, 11, 22):
        assert stats.chisquare(np.bincount(images[:, place], minlength=size)).pvalue > 1e-4
    steps = np.bincount((images[:, 1] - images[:, 0]) % size, minlength=size)[1:]
    assert stats.chisquare(steps).pvalue > 1e-4


def test_large_permutations_look_random():
    order = permutation(50_000, 3)
    assert abs(np.corrcoef(np.arange(50_000), order)[0, 1]) < 0.02
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.02
    assert (order == permutation(50_000, 4)).sum() < 10


def test_huge_sizes():
    size = (1 << 40) + 12_345
    images = permute(np.arange(1000), np.full(1000, size), np.full(1000, 1))
    assert len(set(images.tolist())) == 1000 and images.min() >= 0 and images.max() < size


def test_mix_is_splitmix64():
    # First outputs of the published generator from seed 1234567.
    seed, golden = 1234567, 0x9E3779B97F4A7C15
    states = np.array([(seed + i * golden) % 2**64 for i in range(3)], np.uint64)
    assert mix(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]
