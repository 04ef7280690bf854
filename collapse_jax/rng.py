"""Named random streams: every draw in the project comes from `key` or `host`.

A stream is a name and a path of integers, e.g. `key("sample", seed, generation)`. Two streams that
differ in either are independent, and none depends on how many numbers another has drawn, so adding an
experiment, a generation or a host never moves the numbers of the rest.
"""

import hashlib

import jax
import numpy as np


def _words(stream: str, path: tuple[int, ...]) -> list[int]:
    digest = hashlib.sha256("/".join([stream, *map(str, path)]).encode()).digest()
    return np.frombuffer(digest, dtype="<u4").tolist()


def key(stream: str, *path: int) -> jax.Array:
    """A JAX key (scalar, typed) for the named stream at the integer path."""
    words = _words(stream, path)
    return jax.random.fold_in(jax.random.key(words[0]), words[1])


def host(stream: str, *path: int) -> np.random.Generator:
    """A NumPy generator for the named stream at the integer path."""
    return np.random.default_rng(_words(stream, path))


def integer(stream: str, *path: int) -> int:
    """A 31-bit seed for libraries that take one (Grain, scikit-learn)."""
    return _words(stream, path)[0] >> 1
