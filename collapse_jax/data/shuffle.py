"""Pseudo-random permutations of any size, computed element by element: no list, no start-up, O(1) memory."""

import numpy as np

ROUNDS = 8
SMALLEST_SIDE = 8  # a network over fewer values is too regular
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def permute(index: np.ndarray, size: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Where `index` goes in the permutation of range(size) that `key` names; int64, all of one shape [N].

    A Feistel network on pairs (left, right) with left * width + right covering at least `size` values; a
    value that lands outside range(size) is sent on until it lands inside (cycle walking; Black and Rogaway
    2002, "Ciphers with arbitrary finite domains").
    """
    height = np.maximum(np.ceil(np.sqrt(size)).astype(np.int64), SMALLEST_SIDE)
    width = np.maximum(-(-size // height), SMALLEST_SIDE)
    key = mix(key.astype(np.uint64))
    value = _network(index, height, width, key)
    while len(out := np.flatnonzero(value >= size)):
        value[out] = _network(value[out], height[out], width[out], key[out])
    return value


def _network(value: np.ndarray, height: np.ndarray, width: np.ndarray, key: np.ndarray) -> np.ndarray:
    left, right = np.divmod(value, width)
    for turn in range(ROUNDS):
        key = key + GOLDEN
        if turn % 2:
            right = (right + _number(left, key)) % width
        else:
            left = (left + _number(right, key)) % height
    return left * width + right


def _number(half: np.ndarray, key: np.ndarray) -> np.ndarray:
    """A 31-bit number for each half."""
    return (mix(key ^ mix(half.astype(np.uint64))) >> np.uint64(33)).astype(np.int64)


def mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64 (Steele, Lea and Flood 2014): uint64 -> well mixed uint64, one to one."""
    x = x + GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
