"""Token streams into fixed-length rows: documents packed end to end, or one document a row.

Both turn chunks of documents (lists of int id arrays) into batches {"tokens": [N, L], "length": [N], "prompt":
[N]}; every document is closed by the separator. `prompt` counts the first tokens of a row that are real text in a
sampled row: what its sampling was given. It is 0 in real rows.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from collapse_jax.data.records import Row, Spec


class Chunk(NamedTuple):
    """Rows made from some documents, and what did not fit into them.

    rows: the batch. truncated: documents cut to one row. dropped: their tokens (or the tail's) in no row.
    """

    rows: Row
    truncated: int
    dropped: int


def row_spec(row_length: int, vocab_size: int) -> Spec:
    """Spec of a text row: 16-bit ids where the vocabulary allows."""
    dtype = "uint16" if vocab_size <= 1 << 16 else "int32"
    return {"tokens": ((row_length,), dtype), "length": ((), "int32"), "prompt": ((), "int32")}


def packed(
    chunks: Iterable[list[np.ndarray]], row_length: int, separator_id: int, dtype: str
) -> Iterator[Chunk]:
    """Cut the stream `document separator document separator ...` into full rows; the tail is dropped.

    dtype: of the tokens. `length` is always `row_length`.
    """
    tail = np.zeros(0, dtype)
    for documents in chunks:
        stream = np.concatenate([tail, _closed(documents, separator_id, dtype)])
        count = len(stream) // row_length
        tail = stream[count * row_length :]
        yield Chunk(
            _batch(
                stream[: count * row_length].reshape(count, row_length), np.full(count, row_length, np.int32)
            ),
            0,
            0,
        )
    yield Chunk(_batch(np.zeros((0, row_length), dtype), np.zeros(0, np.int32)), 0, len(tail))


def one_per_row(
    chunks: Iterable[list[np.ndarray]], row_length: int, separator_id: int, dtype: str
) -> Iterator[Chunk]:
    """One document a row, closed by the separator and padded with it; longer documents are cut.

    `length` counts the document and its closing separator; a cut document fills its row and has none.
    """
    for documents in chunks:
        full = np.array([len(d) + 1 for d in documents], np.int64)
        length = np.minimum(full, row_length)
        stream = _closed(documents, separator_id, dtype)
        starts = np.cumsum(full) - full
        place = np.arange(row_length) < length[:, None]
        tokens = np.full((len(documents), row_length), separator_id, dtype)
        tokens[place] = stream[(starts[:, None] + np.arange(row_length))[place]]
        yield Chunk(
            _batch(tokens, length.astype(np.int32)),
            int((full > row_length).sum()),
            int((full - length).sum()),
        )


def _closed(documents: list[np.ndarray], separator_id: int, dtype: str) -> np.ndarray:
    """The documents joined, a separator after each."""
    if not documents:
        return np.zeros(0, dtype)
    end = np.array([separator_id])
    return np.concatenate([part for document in documents for part in (document, end)]).astype(dtype)


def _batch(tokens: np.ndarray, length: np.ndarray) -> Row:
    return {"tokens": tokens, "length": length, "prompt": np.zeros_like(length)}


def digests(rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """uint64 [N]: equal where rows have the same tokens, of those that count."""
    parts = zip(np.asarray(rows["tokens"], np.int32), rows["length"], strict=True)
    raw = b"".join(hashlib.blake2b(tokens[:n].tobytes(), digest_size=8).digest() for tokens, n in parts)
    return np.frombuffer(raw, np.uint64)
