"""Pictures are read twice: once to know each by its content, once for the pixels of its row."""

import contextlib
import hashlib
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from collapse_jax.config import BadInput
from collapse_jax.data.pictures import Pictures, fitted

BATCH_BYTES = 1 << 24
BATCH_ROWS = 1024


class Scan(NamedTuple):
    """What is known before any picture is decoded.

    digests: of each picture's content. labels_N: int32, its class or -1. colour: whether any has three channels.
    """

    digests: list[str]
    labels_N: np.ndarray
    colour: bool


def scan(pictures: Pictures) -> Scan:
    """Read every picture once. Raises `BadInput` naming one that cannot be read."""
    digests, labels, colour = [], [], False
    for i in range(pictures.count):
        content, label = pictures.read(i)
        digests.append(_digest(content, pictures))
        labels.append(label)
        with _named(pictures, i):
            colour |= pictures.codec.colour(content)
    return Scan(digests, np.array(labels, np.int32), colour)


@dataclass(frozen=True)
class Reader:
    """Pixels of pictures as rows have them: of this size (0: as they are), channels and fit (see `fitted`)."""

    pictures: Pictures
    digests: list[str]
    size: int
    channels: int
    fit: str

    def __call__(self, i: int) -> np.ndarray:
        """uint8 [H, W, C] of picture `i`. Raises `BadInput`."""
        content, _ = self.pictures.read(i)
        if _digest(content, self.pictures) != self.digests[i]:
            raise BadInput(f"{self.pictures.where(i)} changed while it was read; run the command again")
        with _named(self.pictures, i):
            return fitted(self.pictures.codec.pixels(content), self.size, self.channels, self.fit)

    def batches(self, rows: np.ndarray, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
        """uint8 [B, *shape] of the pictures `rows`, some megabytes at a time.

        Raises `BadInput` for a picture of another shape.
        """
        step = max(1, min(BATCH_ROWS, BATCH_BYTES // math.prod(shape)))
        workers = os.cpu_count() or 1
        with ThreadPoolExecutor(workers) as pool:  # Pillow decodes and resizes in parallel
            for start in range(0, len(rows), step):
                parts = np.array_split(rows[start : start + step], workers)
                yield np.concatenate(list(pool.map(self._stacked, parts, [shape] * workers)))

    def _stacked(self, rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        pixels_BHWC = np.empty((len(rows), *shape), np.uint8)
        for place, i in enumerate(rows.tolist()):
            found = self(i)
            if found.shape != shape:
                sizes = (f"{height} x {width}" for height, width, _ in (found.shape, shape))
                raise BadInput(
                    f"{self.pictures.where(i)} is {' pixels and others are '.join(sizes)}; set size to make them equal"
                )
            pixels_BHWC[place] = found
        return pixels_BHWC


def _digest(content: bytes, pictures: Pictures) -> str:
    return hashlib.sha256(repr(pictures.codec).encode() + content).hexdigest()


@contextlib.contextmanager
def _named(pictures: Pictures, i: int) -> Iterator[None]:
    """Says which picture it was that could not be used."""
    try:
        yield
    except BadInput:
        raise
    except ValueError as error:
        raise BadInput(f"{pictures.where(i)} {error}") from error
