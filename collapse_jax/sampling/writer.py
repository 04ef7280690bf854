"""Sampling as a batch job: rows keyed by (seed, generation, row), in shards, resumable at each.

Several generations are sampled side by side; each fills shards of its own.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from collapse_jax import faults, interrupt, processes, rng
from collapse_jax import mesh as meshes
from collapse_jax.config import number
from collapse_jax.data.records import Row, RowSource, ShardWriter, Spec, shard_name
from collapse_jax.families import Batch, Family
from collapse_jax.lanes import axis, filled, over, stack
from collapse_jax.lineage import Generation

Spans = list[tuple[int, int]]  # (first row, rows)


@dataclass(frozen=True)
class Writing:
    """How the job is cut up; changes no row beyond rounding, so it is no part of a generation's identity."""

    batch_size: int = number(256, 1, identity=False)
    rows_per_shard: int = number(65_536, 1, identity=False)


class Sampler:
    """The compiled sampler of a family on a mesh, for `lanes` models side by side."""

    def __init__(self, family: Family, settings: Writing, mesh: Mesh, lanes: int = 1):
        self.family, self.settings, self.mesh, self.lanes = family, settings, mesh, lanes
        self.step = jax.jit(self._sample)
        # One device is asked by two threads in turn: a CPU works on both batches at once, as drawing in small
        # steps fills about one core. Several devices have collectives, which must come in one order.
        alone = mesh.size == 1
        self.threads = ThreadPoolExecutor(2, initializer=jax.set_mesh, initargs=(mesh,)) if alone else None
        self.compiled = False

    def _sample(self, models_G: Any, keys_G: jax.Array, indices_GB: jax.Array, rows_GB: Any) -> Any:
        def one(model: nnx.Module, key: jax.Array, indices_B: jax.Array, rows_B: Any) -> Any:
            keys_B = jax.vmap(lambda i: jax.random.fold_in(key, i))(indices_B)
            return settled(self.family.sample(model, keys_B, rows_B), self.family.spec)

        drawn = over(one, self.lanes, (0, 0, 0, 0))(models_G, keys_G, indices_GB, rows_GB)
        if jax.process_count() > 1:  # every process gets all rows, so that any can write any shard
            drawn = jax.sharding.reshard(drawn, P())
        return drawn

    def batches(
        self, models_G: Any, streams: Sequence[tuple[int, int]], spans: Sequence[Spans], real: RowSource
    ) -> Iterator[list[tuple[int, int, Row, bool]]]:
        """The rows of `spans` [(first, rows), ...] of each lane, as lists of (lane, first row, batch, finite).

        streams: (seed, generation) of each lane. Row i is conditioned on real row i (modulo their number).
        """
        size = self.settings.batch_size
        keys_G = stack([rng.key("sample", *stream) for stream in streams], self.lanes)
        cuts = [
            [
                (i, min(size, first + rows - i))
                for first, rows in lane
                for i in range(first, first + rows, size)
            ]
            for lane in spans
        ]
        waiting: deque[tuple[Callable[[], Any], list[tuple[int, int, int]]]] = deque()
        for at in range(max(map(len, cuts))):
            now = [lane[min(at, len(lane) - 1)] if lane else (0, 0) for lane in cuts]
            due = [(g, *now[g]) for g, lane in enumerate(cuts) if at < len(lane)]
            given = [_given(self.mesh, real, first, size) for first, _ in now]
            stacked = jax.tree.map(lambda *xs: np.stack(xs), *filled(given, self.lanes))
            placed = meshes.place(self.mesh, stacked, axis(self.lanes), "data")
            waiting.append((self._begin(models_G, keys_G, *placed), due))
            if len(waiting) > 1:
                yield _fetch(*waiting.popleft())
        while waiting:
            yield _fetch(*waiting.popleft())

    def _begin(self, *given: Any) -> Callable[[], Any]:
        """Ask for a batch; the result is what waits for it."""
        if self.threads is None or not self.compiled:
            drawn = self.step(*given)
            self.compiled = True
            return lambda: drawn
        return self.threads.submit(lambda: jax.block_until_ready(self.step(*given))).result


def _given(mesh: Mesh, real: RowSource, first: int, size: int) -> tuple[np.ndarray, Row]:
    """Indices of the rows of a batch that this process holds, and the real rows that condition them.

    The real rows begin again when they end.
    """
    indices = first + meshes.held(mesh, size)
    return indices.astype(np.uint32), real.take(indices % len(real))


def settled(drawn: Batch, spec: Spec) -> tuple[Batch, jax.Array]:
    """The rows as the spec has them, and which of them were finite before [B]: NaN is 0 as a whole number."""
    finite = [jnp.all(jnp.isfinite(x), range(1, x.ndim)) for x in drawn.values()]
    return {name: drawn[name].astype(spec[name][1]) for name in drawn}, jnp.all(jnp.stack(finite), 0)


def _fetch(drawn: Callable[[], Any], due: list[tuple[int, int, int]]) -> list[tuple[int, int, Row, bool]]:
    rows_GB, finite_GB = jax.tree.map(np.asarray, drawn())
    return [
        (g, first, {name: x[g, :rows] for name, x in rows_GB.items()}, bool(finite_GB[g, :rows].all()))
        for g, first, rows in due
    ]


def plan_shards(have: list[tuple[int, int]], rows: int, per_shard: int) -> list[tuple[int, int]]:
    """(first, rows) of the shards missing from `have` so that they hold rows [0, rows).

    Shards that exist keep their bounds: what was sampled for an earlier experiment is only added to.
    """
    missing, at = [], 0
    for first, count in [*sorted(have), (max(rows, max((f + c for f, c in have), default=0)), 0)]:
        while at < first:
            missing.append((at, min(per_shard, first - at)))
            at += missing[-1][1]
        at = first + count
    return missing


def write(
    sampler: Sampler,
    models_G: Any,
    generations: Sequence[Generation],
    real: RowSource,
    rows: Sequence[int],
    done: Callable[[int], None],
) -> list[bool]:
    """Sample what is missing of the first `rows` rows of each generation into shards.

    False for a generation that has drawn a row that is not finite. `done(rows written)` is told of progress.
    """
    jobs = [_Job(sampler, g, n) for g, n in zip(generations, rows, strict=True)]
    streams = [(g.recipe["seed"], g.recipe["generation"]) for g in generations]
    try:
        for found in sampler.batches(models_G, streams, [job.missing for job in jobs], real):
            for lane, first, batch, finite in found:
                jobs[lane].add(first, batch, finite)
            done(sum(job.written for job in jobs))
            faults.point("sample/batch")
            interrupt.poll()
    finally:
        for job in jobs:
            job.close()
    return [job.finite for job in jobs]


class _Job:
    """The missing shards of one generation, filled in order."""

    def __init__(self, sampler: Sampler, generation: Generation, rows: int):
        self.spec, self.generation = sampler.family.spec, generation
        have = [(said["first"], said["rows"]) for _, said in generation.shards()]
        self.missing = plan_shards(have, rows, sampler.settings.rows_per_shard)
        order = sorted([f for f, _ in have] + [f for f, _ in self.missing])
        names = {f: shard_name(i, len(order)) for i, f in enumerate(order)}
        generation.renumber(names)
        self.ends = {first + count: (first, count) for first, count in self.missing}
        self.paths = {first: generation.path / "synthetic" / names[first] for first, _ in self.missing}
        # each process writes shards of its own
        mine = (order.index(first) % processes.count() == jax.process_index() for first, _ in self.missing)
        self.mine = dict(zip(self.paths, mine, strict=True))
        self.shard: ShardWriter | None = None
        self.finite, self.written = True, 0

    def add(self, first: int, batch: Row, finite: bool) -> None:
        self.finite = self.finite and finite
        if not self.finite:
            return
        if self.mine.get(first):
            self.shard = ShardWriter(self.paths[first], self.spec)
        if self.shard is not None:
            self.shard.write_batch(batch)
        count = len(next(iter(batch.values())))
        self.written += count
        if first + count in self.ends:
            start, rows = self.ends[first + count]
            if self.shard is not None:
                self.shard.close()
                self.shard = None
            processes.barrier("shard")
            faults.point("sample/shard")
            self.generation.journal([self.paths[start]], first=start, rows=rows)

    def close(self) -> None:
        """Drop a shard that was not finished."""
        if self.shard is not None:
            self.shard.abort()
