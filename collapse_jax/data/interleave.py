"""Dealing positions to sources in exact integer proportions, at any position without counting up to it."""

import heapq
from collections.abc import Sequence

import numpy as np

from collapse_jax.config import BadInput

LARGEST = 1 << 31  # 2 * rows * rows must fit in 63 bits


class Interleave:
    """Position -> (source, index in it): source k gets exactly counts[k] of every sum(counts) positions.

    The sources are leaves of a Huffman tree over their counts, and every inner node deals its positions to
    its two branches as evenly as integers allow: the first m give round(m * left / total) to the left. A
    rounding error of at most 1/2 shrinks on its way down by the shares of the branches, which in a Huffman
    tree fall at least as fast as 1/Fibonacci: after any number of positions a source is within 1.68 rows of
    its exact share. (Ordering all sources by one virtual time drifts by up to half the number of sources.)
    A position costs a few divisions per level of the tree, and nothing else is precomputed.
    """

    def __init__(self, counts: Sequence[int]) -> None:
        if not counts or min(counts) < 1:
            raise ValueError(f"every source needs a count of at least 1, not {tuple(counts)}")
        if sum(counts) >= LARGEST:
            raise BadInput(f"a mixture of {sum(counts)} rows is too large; use fewer than {LARGEST}")
        self.period = sum(counts)
        self._left, self._right, self._share, self._total, self._depth = _tree(counts)
        self._leaves = len(counts)
        self._counts = np.array(counts, np.int64)

    def select(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sources and indices (int64, of any shape) at positions; an index counts on over epochs."""
        epoch, place = np.divmod(np.asarray(positions, np.int64), self.period)
        node = np.full_like(place, len(self._left) - 1)
        for _ in range(self._depth):
            before, after = self._to_left(node, place), self._to_left(node, place + 1)
            goes_left = after > before
            place = np.where(goes_left, before, place - before)
            node = np.where(goes_left, self._left[node], self._right[node])
        return node, epoch * self._counts[node] + place

    def _to_left(self, node: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """How many of a node's first positions go left: positions * share / total, rounded half up."""
        return (2 * positions * self._share[node] + self._total[node]) // (2 * self._total[node])

    def realised(self, draws: int) -> tuple[int, ...]:
        """How many of the first `draws` positions fall on each source."""
        epochs, rest = divmod(draws, self.period)
        given = np.zeros(len(self._left), np.int64)
        given[-1] = rest
        for node in range(len(self._left) - 1, self._leaves - 1, -1):
            to_left = int(self._to_left(np.array(node), given[node]))
            given[self._left[node]] = to_left
            given[self._right[node]] = given[node] - to_left
        return tuple(int(n) for n in epochs * self._counts + given[: self._leaves])


def _tree(counts: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
    """Huffman tree: nodes 0..K-1 are the sources (leaves lead to themselves), the last node is the root."""
    left, right, share, total = (
        list(range(len(counts))),
        list(range(len(counts))),
        list(counts),
        list(counts),
    )
    heap = [(count, node, 0) for node, count in enumerate(counts)]
    heapq.heapify(heap)
    while len(heap) > 1:
        (small, b, deep_b), (large, a, deep_a) = heapq.heappop(heap), heapq.heappop(heap)
        left.append(a)
        right.append(b)
        share.append(large)
        total.append(small + large)
        heapq.heappush(heap, (small + large, len(left) - 1, 1 + max(deep_a, deep_b)))
    return np.array(left), np.array(right), np.array(share), np.array(total), heap[0][2]


def realised(counts: Sequence[int], draws: int) -> tuple[int, ...]:
    """Rows drawn from each source after `draws` draws; sources with count 0 get none."""
    used = [k for k, count in enumerate(counts) if count]
    given = dict(zip(used, Interleave([counts[k] for k in used]).realised(draws), strict=True))
    return tuple(given.get(k, 0) for k in range(len(counts)))
