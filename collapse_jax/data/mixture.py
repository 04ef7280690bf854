"""The training batches of one generation: rows of its sources in exact proportions, seekable by step.

Per source: the used rows (a fixed uniform subset when only some are used) -> shuffled, anew each epoch ->
repeated; then mixed -> the places of each batch that this process holds -> batched. Everything is a pure function
of the position, so the global batches are the same, row by row, for any number of processes and after any resume.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import grain
import numpy as np

from collapse_jax import rng
from collapse_jax.config import BadInput
from collapse_jax.data.interleave import Interleave
from collapse_jax.data.interleave import realised as realised
from collapse_jax.data.records import Row, RowSource
from collapse_jax.data.shuffle import permute

BLOCK = 4096

Component = tuple[RowSource, int, int]
"""(source, start, rows): the rows [start, start + rows) of a source."""


class Draws(grain.transforms.DatasetSelectionMap):
    """Position -> (component, row in it) of every draw, computed a block of positions at a time.

    `counts[k]` of `rows[k]` rows are used, all of them or a uniform subset without replacement that stays the
    same; every epoch goes through them in an order of its own. Grain's own `shuffle` is not used: sliced to a
    subset it chooses another subset each epoch, and below 65,536 rows it takes up to milliseconds a row.
    """

    def __init__(self, rows: Sequence[int], counts: Sequence[int], length: int, seed: Sequence[int]) -> None:
        self._length = length
        used = [k for k, count in enumerate(counts) if count]
        self._interleave = Interleave([counts[k] for k in used])
        self._rows = np.array([rows[k] for k in used], np.int64)
        self._counts = np.array([counts[k] for k in used], np.int64)
        self._subset_keys = np.array([rng.integer("mixture-subset", *seed, k) for k in used])
        self._order_keys = np.array([rng.integer("mixture-shuffle", *seed, k) for k in used])
        self._used = np.array(used)
        self._block = lru_cache(maxsize=16)(self._compute)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, position: int) -> tuple[int, int]:
        block, offset = divmod(position, BLOCK)
        components, rows = self._block(block)
        return components[offset], rows[offset]

    def _compute(self, block: int) -> tuple[list[int], list[int]]:
        first = block * BLOCK
        used, index = self._interleave.select(np.arange(first, min(first + BLOCK, self._length)))
        count, rows = self._counts[used], self._rows[used]
        epoch, place = np.divmod(index, count)
        # Keys have 31 bits, so an epoch above them makes a key of its own.
        shuffled = permute(place, count, self._order_keys[used] + (epoch << 31))
        # A permutation of all rows whose first `count` images are the subset.
        row = np.where(count < rows, permute(shuffled, rows, self._subset_keys[used]), shuffled)
        return self._used[used].tolist(), row.tolist()


class Held(grain.transforms.DatasetSelectionMap):
    """Position -> draw, where a process takes only the places `held` of each batch of `batch_size` draws."""

    def __init__(self, held: np.ndarray, batch_size: int, steps: int) -> None:
        self._held, self._batch_size, self._length = held.tolist(), batch_size, steps * len(held)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, position: int) -> tuple[int, int]:
        step, at = divmod(position, len(self._held))
        return 0, step * self._batch_size + self._held[at]


class Batches:
    """Iterator over the local part of the global batches of a fit.

    components: (source, start, rows), the rows [start, start + rows) of each source. counts: how many of them
        are used; fewer than `rows` are a uniform subset without replacement, the same one in every epoch.
    draws: rows drawn in all; there are draws // batch_size steps and the rest is left out.
    batch_size: rows of a global batch; held: the places in it that this process reads, ascending (None: all).
    seed: path of integers naming the random streams. start_step: the first step given.
    threads, prefetch: readers, and how many local batches they read ahead (0: read when asked).

    Batches are dicts of arrays with a leading axis of len(held) rows. Close it after use; the sources stay open.
    Raises `BadInput` when sizes do not fit.
    """

    def __init__(
        self,
        components: Sequence[Component],
        counts: Sequence[int],
        draws: int,
        batch_size: int,
        seed: Sequence[int],
        start_step: int = 0,
        held: np.ndarray | None = None,
        threads: int = 1,
        prefetch: int = 4,
    ) -> None:
        _check(components, counts, draws, batch_size)
        self.steps = draws // batch_size
        if not 0 <= start_step <= self.steps:
            raise BadInput(f"step {start_step} is outside the {self.steps} steps of this fit")
        sources = [source for source, _, _ in components]
        first_rows = np.cumsum([0, *map(len, sources)])
        selection = Draws([rows for _, _, rows in components], counts, self.steps * batch_size, seed)
        parents = [
            grain.MapDataset.range(first + start, first + start + max(rows, 1))
            for first, (_, start, rows) in zip(first_rows.tolist(), components, strict=False)
        ]
        mixed = grain.MapDataset.select_from_datasets(parents, selection)
        if held is not None and len(held) < batch_size:
            mixed = grain.MapDataset.select_from_datasets([mixed], Held(held, batch_size, self.steps))
        local = batch_size if held is None else len(held)
        rows = mixed.batch(local, batch_fn=np.array).map(lambda places: _gather(sources, first_rows, places))
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(prefetch, threads))
        self._iterator = iter(rows.to_iter_dataset(options))
        if start_step:
            grain.experimental.set_next_index(self._iterator, start_step)

    def __iter__(self) -> Iterator[Row]:
        return self

    def __next__(self) -> Row:
        return next(self._iterator)

    def close(self) -> None:
        """Stop the reading threads."""
        self._iterator.close()

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check(components: Sequence[Component], counts: Sequence[int], draws: int, batch_size: int) -> None:
    if len(components) != len(counts) or not any(counts):
        raise BadInput(f"{len(components)} sources with the counts {tuple(counts)} make no mixture")
    for k, ((source, start, rows), count) in enumerate(zip(components, counts, strict=True)):
        if not 0 <= count <= rows or start < 0 or start + rows > len(source):
            span = f"[{start}, {start + rows})"
            raise BadInput(f"mixture: source {k} has {len(source)} rows, not {count} of {span}")
    if batch_size < 1:
        raise BadInput(f"batch_size={batch_size} must be at least 1")
    if draws < batch_size:
        raise BadInput(
            f"a budget of {draws} rows is less than one batch of {batch_size}; "
            "lower batch_size or train for more epochs"
        )


def _gather(sources: Sequence[RowSource], first_rows: np.ndarray, places: np.ndarray) -> Row:
    """The rows at places [B], counted through all sources, as one batch: one bulk read per source."""
    batch: Row = {}
    source_of = np.searchsorted(first_rows, places, side="right") - 1
    for k in np.unique(source_of):
        where = np.flatnonzero(source_of == k)
        for name, values in sources[k].take(places[where] - first_rows[k]).items():
            if name not in batch:
                batch[name] = np.empty((len(places), *values.shape[1:]), values.dtype)
            batch[name][where] = values
    return batch


def in_order(
    source: RowSource, start: int, stop: int, batch_size: int, held: np.ndarray | None = None
) -> Iterator[tuple[Row, np.ndarray]]:
    """Rows [start, stop) once, in order: (local part of a batch, float32 row weights).

    The last batch is filled up with its last row at weight 0, so that every batch has the same shape. held: the
    places in a batch that this process reads, ascending (None: all).
    """
    if batch_size < 1:
        raise BadInput(f"batch_size={batch_size} must be at least 1")
    if not 0 <= start < stop <= len(source):
        raise BadInput(f"rows [{start}, {stop}) are none of the {len(source)} rows there are")
    held = np.arange(batch_size) if held is None else held
    for first in range(start, stop, batch_size):
        places = np.minimum(first + held, stop - 1)
        yield source.take(places), (first + held < stop).astype(np.float32)
