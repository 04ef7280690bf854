"""Pictures are read twice: once to know each by its content, once for the pixels of its row.

Where some cannot be decoded, all are decoded, to name all such at once.
"""

import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from collapse_jax.config import BadInput
from collapse_jax.data.pictures import Pictures, few, fitted

BATCH_BYTES = 1 << 24
BATCH_ROWS = 1024
NAMED = 10  # of the pictures that cannot be decoded


class Scan(NamedTuple):
    """What is known before any picture is decoded.

    digests: of each picture's content. labels_N: int32, its class or -1. traits: how many pictures have each.
    unreadable: whether there are some that cannot even be opened.
    """

    digests: list[str]
    labels_N: np.ndarray
    traits: Counter[str]
    unreadable: bool


class Unreadable(BadInput):
    """A picture that cannot be decoded."""


def scan(pictures: Pictures) -> Scan:
    """Read every picture once."""
    digests, labels, traits, unreadable = [], [], Counter[str](), False
    for i in range(pictures.count):
        try:
            content, label = pictures.read(i)
            traits.update(pictures.codec.traits(content))
        except ValueError:
            content, label, unreadable = pictures.where(i).encode(), -1, True
        digests.append(_digest(content, pictures))
        labels.append(label)
    return Scan(digests, np.array(labels, np.int32), traits, unreadable)


def unreadable(pictures: Pictures) -> dict[int, str]:
    """Number of each picture that cannot be decoded -> its name and why."""

    def reason(i: int) -> str:
        try:
            pictures.codec.pixels(pictures.read(i)[0])
        except BadInput as error:
            return str(error)
        except ValueError as error:
            return f"{pictures.where(i)} {error}"
        return ""

    found = {}
    with ThreadPoolExecutor() as pool:
        for start in range(0, pictures.count, BATCH_ROWS):
            numbers = range(start, min(start + BATCH_ROWS, pictures.count))
            found |= {i: why for i, why in zip(numbers, pool.map(reason, numbers), strict=True) if why}
    return found


def refusal(pictures: Pictures) -> Unreadable:
    """One line about all pictures that cannot be decoded."""
    found = list(unreadable(pictures).values())
    return Unreadable(
        f"{len(found):,} of {pictures.count:,} pictures cannot be used: {few(found, NAMED)}; mend or remove them, "
        "or set unreadable='leave out'"
    )


@dataclass(frozen=True)
class Reader:
    """Pixels of pictures as rows have them: of this size (0: as they are), channels and fit (see `fitted`)."""

    pictures: Pictures
    digests: list[str]
    size: int
    channels: int
    fit: str

    def __call__(self, i: int) -> np.ndarray:
        """uint8 [H, W, C] of picture `i`. Raises `BadInput`, `Unreadable` if that is why."""
        content, _ = self.pictures.read(i)
        if _digest(content, self.pictures) != self.digests[i]:
            raise BadInput(f"{self.pictures.where(i)} changed while it was read; run the command again")
        try:
            pixels_HWC = self.pictures.codec.pixels(content)
        except ValueError as error:
            raise Unreadable(f"{self.pictures.where(i)} {error}") from error
        try:
            return fitted(pixels_HWC, self.size, self.channels, self.fit)
        except ValueError as error:
            raise BadInput(f"{self.pictures.where(i)} {error}") from error

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
