"""Rows on disk: the codec between rows and bytes, shards of rows, and random access over several shards.

A row is a dict of fixed-shape NumPy arrays described by a `Spec`. It is stored as the raw little-endian bytes
of its arrays, joined in the order of the spec, one record of an ArrayRecord file each.
"""

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from collapse_jax.config import BadInput
from collapse_jax.files import sha256

Spec = dict[str, tuple[tuple[int, ...], str]]
"""Name -> (shape, dtype name) of each array of a row, e.g. {"tokens": ((256,), "uint16")}."""

Row = dict[str, np.ndarray]
"""One row, or a batch of rows when every array has a leading row axis."""

# Uncompressed: rows of tokens shrink by a quarter only, writing is six times faster, and the bytes (whose
# digest enters the identity of a generation) do not depend on the version of a compressor.
WRITER_OPTIONS = "group_size:1,uncompressed"
READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
BUFFER_BYTES = 32 * 1024


def row_dtype(spec: Mapping[str, tuple[Sequence[int], str]]) -> np.dtype:
    """The packed little-endian structured dtype of one row. Raises `ValueError` on object types."""
    fields = []
    for name, (shape, kind) in spec.items():
        dtype = np.dtype(kind).newbyteorder("<")
        if dtype.kind not in "biufc":
            raise ValueError(f"rows cannot hold {name!r} of type {kind!r}; use a number type")
        fields.append((name, dtype, tuple(shape)))
    return np.dtype(fields)


def spec_to_json(spec: Spec) -> list:
    """The spec as a list of [name, shape, dtype]: its order is the order of the bytes of a row."""
    return [[name, list(shape), dtype] for name, (shape, dtype) in spec.items()]


def spec_from_json(given: Sequence[Sequence]) -> Spec:
    """The spec of such a list."""
    return {name: (tuple(int(n) for n in shape), str(dtype)) for name, shape, dtype in given}


def encode(batch: Mapping[str, np.ndarray], spec: Spec) -> list[bytes]:
    """Records of a batch of rows (leading row axis). Raises `ValueError` when it does not fit the spec."""
    if set(batch) != set(spec):
        raise ValueError(f"rows have {sorted(batch)} and the spec {sorted(spec)}")
    arrays = {name: np.asarray(batch[name]) for name in spec}
    count = len(next(iter(arrays.values())))
    packed = np.empty(count, row_dtype(spec))
    for name, (shape, kind) in spec.items():
        if arrays[name].shape != (count, *shape):
            raise ValueError(f"{name!r} has shape {arrays[name].shape} and the spec {(count, *shape)}")
        packed[name] = _exactly(arrays[name], np.dtype(kind), name)
    raw, size = packed.tobytes(), packed.dtype.itemsize
    return [raw[i : i + size] for i in range(0, count * size, size)]


def _exactly(array: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    if array.dtype == dtype or np.can_cast(array.dtype, dtype, "safe"):
        return array
    if array.dtype.kind not in "iu" or dtype.kind not in "iu":
        raise ValueError(f"{name!r} is {array.dtype} and does not fit {dtype}")
    limits = np.iinfo(dtype)
    if array.size and not limits.min <= int(array.min()) <= int(array.max()) <= limits.max:
        raise ValueError(f"{name!r} holds {array.min()}..{array.max()}, outside {dtype}")
    return array


def decode(records: Sequence[bytes], spec: Spec) -> Row:
    """The batch of rows held by records. Raises `ValueError` when a record has the wrong length."""
    dtype = row_dtype(spec)
    if any(len(record) != dtype.itemsize for record in records):
        lengths = sorted({len(record) for record in records})
        raise ValueError(f"records have {lengths} bytes and a row of this spec has {dtype.itemsize}")
    packed = np.frombuffer(b"".join(records), dtype)
    return {name: packed[name].astype(kind) for name, (_, kind) in spec.items()}


def encode_row(row: Mapping[str, np.ndarray], spec: Spec) -> bytes:
    """One row -> its record."""
    return encode({name: np.asarray(value)[None] for name, value in row.items()}, spec)[0]


def decode_row(record: bytes, spec: Spec) -> Row:
    """One record -> its row."""
    return first_row(decode([record], spec))


def first_row(batch: Row) -> Row:
    """Row 0 of a batch; scalars stay 0-d arrays."""
    return {name: values[0, ...] for name, values in batch.items()}


def shard_name(index: int, total: int) -> str:
    """`part-00000-of-00003.array_record` for shard 0 of 3."""
    return f"part-{index:05d}-of-{total:05d}.array_record"


class ShardInfo(NamedTuple):
    """What a manifest says about a shard."""

    rows: int
    bytes: int
    sha256: str


class ShardWriter:
    """Writes one shard aside (`.NAME.partial`) and moves it into place on `close`.

    A process killed in between leaves the partial file, which the next writer of this shard overwrites. As a
    context manager it closes on success and drops the partial file on an exception.
    """

    def __init__(self, path: str | os.PathLike, spec: Spec) -> None:
        self.path, self.spec, self.rows = Path(path), spec, 0
        self._partial = self.path.with_name(f".{self.path.name}.partial")
        # The C++ writer of an unwritable path only fails at its first flush, and without saying why. It follows
        # links, so the file is to be a new one.
        self._partial.unlink(missing_ok=True)
        self._partial.touch(exist_ok=False)
        self._writer = ArrayRecordWriter(str(self._partial), WRITER_OPTIONS)

    def write(self, row: Mapping[str, np.ndarray]) -> None:
        """Append one row."""
        self._append([encode_row(row, self.spec)])

    def write_batch(self, batch: Mapping[str, np.ndarray]) -> None:
        """Append a batch of rows."""
        self._append(encode(batch, self.spec))

    def _append(self, records: Sequence[bytes]) -> None:
        try:
            for record in records:
                self._writer.write(record)
        except RuntimeError as error:
            raise OSError(f"cannot write {self.path}: {_line(error)}") from error
        self.rows += len(records)

    def close(self) -> ShardInfo:
        """Finish the shard. Raises `OSError` when the disk did not take all of it."""
        try:
            self._writer.close()
        except RuntimeError as error:
            raise OSError(f"cannot write {self.path}: {_line(error)}") from error
        with open(self._partial, "rb+") as file:
            os.fsync(file.fileno())
        written = ArrayRecordReader(str(self._partial), READER_OPTIONS, file_reader_buffer_size=BUFFER_BYTES)
        rows = written.num_records()
        written.close()
        if rows != self.rows:
            raise OSError(f"cannot write {self.path}: {rows} of {self.rows} rows arrived")
        info = ShardInfo(self.rows, self._partial.stat().st_size, sha256(self._partial))
        os.replace(self._partial, self.path)
        return info

    def abort(self) -> None:
        """Drop what was written; a no-op after `close`."""
        if self._writer.is_open():
            with contextlib.suppress(RuntimeError):
                self._writer.close()
        self._partial.unlink(missing_ok=True)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self.abort()
        elif self._writer.is_open():
            self.close()


class RowSource:
    """Random access to the rows of several shards, in shard order; safe to read from several threads.

    `files` are (path, rows) as the manifest says. Opening raises `BadInput` naming a shard that is missing or
    holds another number of rows, reading one that is corrupt.
    """

    def __init__(self, files: Sequence[tuple[str | os.PathLike, int]], spec: Spec) -> None:
        self.spec, self.paths = spec, [Path(path) for path, _ in files]
        self._bounds = np.cumsum([0, *(rows for _, rows in files)], dtype=np.int64)
        self._readers: list[ArrayRecordReader] = []
        try:
            for path, rows in files:
                self._readers.append(_open(Path(path), rows))
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return int(self._bounds[-1])

    def __getitem__(self, index: int) -> Row:
        index = index.__index__()
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return first_row(self.take(np.array([index])))

    def take(self, indices: np.ndarray) -> Row:
        """The rows at `indices` (any order, repeats allowed) as one batch."""
        indices = np.asarray(indices, np.int64)
        if indices.size and not 0 <= int(indices.min()) <= int(indices.max()) < len(self):
            raise IndexError(f"rows {indices.min()}..{indices.max()} of {len(self)}")
        if indices.size and np.all(np.diff(indices) == 1):  # neighbours are read at once
            return self.read(int(indices[0]), int(indices[-1]) + 1)
        shards = np.searchsorted(self._bounds, indices, side="right") - 1
        records: list[bytes] = [b""] * len(indices)
        for shard in np.unique(shards):
            where = np.flatnonzero(shards == shard)
            positions = (indices[where] - self._bounds[shard]).tolist()
            for place, record in zip(where.tolist(), self._read(shard, positions), strict=True):
                records[place] = record
        return self._decode(records)

    def read(self, start: int, stop: int) -> Row:
        """Rows [start, stop) as one batch."""
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"rows {start}..{stop} of {len(self)}")
        records: list[bytes] = []
        for shard, (low, high) in enumerate(zip(self._bounds[:-1], self._bounds[1:], strict=True)):
            begin, end = max(start, int(low)), min(stop, int(high))
            if begin < end:
                records += self._read(shard, range(begin - int(low), end - int(low)))
        return self._decode(records)

    def _read(self, shard: int, positions: Sequence[int]) -> list[bytes]:
        try:
            if isinstance(positions, range):
                return self._readers[shard].read(positions.start, positions.stop)
            return self._readers[shard].read(positions)
        except (RuntimeError, ValueError) as error:
            raise BadInput(f"shard {self.paths[shard]} is damaged ({_line(error)}); make it again") from error
        except IndexError as error:
            raise ValueError(f"{self.paths[shard]} was closed") from error

    def _decode(self, records: Sequence[bytes]) -> Row:
        try:
            return decode(records, self.spec)
        except ValueError as error:
            raise BadInput(f"rows of {self.paths[0].parent} do not fit their spec: {error}") from error

    def close(self) -> None:
        """Close the shards; reading afterwards fails."""
        for reader in self._readers:
            _close(reader)
        self._readers = []

    def __enter__(self) -> "RowSource":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open(path: Path, rows: int) -> ArrayRecordReader:
    try:
        open(path, "rb").close()  # says why it cannot be opened, which is rarely the fault of the shard
    except FileNotFoundError:
        raise BadInput(f"shard {path} is missing; make it again") from None
    try:
        reader = ArrayRecordReader(str(path), READER_OPTIONS, file_reader_buffer_size=BUFFER_BYTES)
        found = reader.num_records()
    except (RuntimeError, ValueError) as error:
        raise BadInput(f"shard {path} cannot be opened ({_line(error)}); make it again") from error
    # A truncated file opens without complaint as an empty one.
    if found != rows:
        _close(reader)
        raise BadInput(
            f"shard {path} is damaged: it holds {found} rows, its manifest says {rows}; make it again"
        )
    return reader


def _close(reader: ArrayRecordReader) -> None:
    # Closing repeats the error of a damaged file, which has been reported by then.
    with contextlib.suppress(RuntimeError):
        reader.close()


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
