"""The interleave: exact shares each epoch, close to them at every prefix, equal to counting one by one."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collapse_jax.config import BadInput
from collapse_jax.data.interleave import Interleave, realised

BOUND = 1.68


@given(st.lists(st.integers(1, 60), min_size=1, max_size=9))
@settings(max_examples=150, deadline=None)
def test_exact_each_epoch_and_close_to_the_quota_at_every_prefix(counts):
    total = sum(counts)
    interleave = Interleave(counts)
    drawn = [0] * len(counts)
    sources, indices = interleave.select(np.arange(3 * total))
    for position, (source, index) in enumerate(zip(sources.tolist(), indices.tolist(), strict=True), 1):
        assert index == drawn[source]  # each source is read in order, nothing skipped or repeated
        drawn[source] += 1
        assert all(abs(n - position * c / total) <= BOUND for n, c in zip(drawn, counts, strict=True))
        assert interleave.realised(position) == tuple(drawn)
        if position % total == 0:
            assert drawn == [position // total * c for c in counts]


def test_two_sources_stay_within_half_a_row():
    for a, b in itertools.product(range(1, 12), repeat=2):
        for m in range(a + b + 1):
            assert abs(Interleave((a, b)).realised(m)[0] - m * a / (a + b)) <= 0.5


def test_equal_sources_by_hand():
    sources, indices = Interleave((1, 1)).select(np.arange(4))
    assert sources.tolist() == [1, 0, 1, 0] and indices.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("counts", [[1] * 100, [1000, *[10] * 50], [1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144]])
def test_many_sources_stay_close_to_the_quota(counts):
    total = sum(counts)
    sources, _ = Interleave(counts).select(np.arange(total))
    drawn = np.cumsum(sources[:, None] == np.arange(len(counts)), axis=0)
    assert np.abs(drawn - np.outer(np.arange(1, total + 1), counts) / total).max() <= BOUND


def test_large_counts_are_exact_far_out():
    counts = [700_000_000, 1, 650_000_001, 23]
    interleave, period = Interleave(counts), sum(counts)
    for at in (0, period - 4096, 5 * period - 17, 5 * period):
        sources, indices = interleave.select(np.arange(at, at + 4096))
        before, after = interleave.realised(at), interleave.realised(at + 4096)
        for k, count in enumerate(counts):
            assert indices[sources == k].tolist() == list(range(before[k], after[k]))
            assert abs(before[k] - at * count / period) <= BOUND


def test_counts_that_do_not_fit_are_refused():
    with pytest.raises(BadInput, match="too large"):
        Interleave([1 << 30, 1 << 30])
    with pytest.raises(ValueError, match="at least 1"):
        Interleave([3, 0])


def test_realised_skips_unused_sources():
    assert realised((0, 3, 0, 1), 8) == (0, 6, 0, 2)
    assert sum(realised((5, 0, 2, 9), 37)) == 37
