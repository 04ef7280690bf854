"""Sampling as a batch job: rows keyed by (seed, generation, row), in shards, resumable at each."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from collapse_jax import faults, interrupt, rng
from collapse_jax import mesh as meshes
from collapse_jax.config import number
from collapse_jax.data.records import RowSource, ShardWriter
from collapse_jax.families import Family
from collapse_jax.lineage import Generation


@dataclass(frozen=True)
class Writing:
    """How the job is cut up; changes no row beyond rounding, so it is no part of a generation's identity."""

    batch_size: int = number(256, 1, identity=False)
    rows_per_shard: int = number(65_536, 1, identity=False)


class Sampler:
    """The compiled sampler of a family on a mesh."""

    def __init__(self, family: Family, settings: Writing, mesh: Mesh):
        self.family, self.settings, self.mesh = family, settings, mesh
        self.step = jax.jit(self._sample)

    def _sample(self, model: nnx.Module, key: jax.Array, indices_B: jax.Array, rows_B: Any) -> Any:
        keys_B = jax.vmap(lambda i: jax.random.fold_in(key, i))(indices_B)
        return self.family.sample(model, keys_B, rows_B)

    def rows(
        self,
        model: nnx.Module,
        seed: int,
        generation: int,
        real: RowSource,
        start: int,
        stop: int,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Batches of rows [start, stop); row i is conditioned on real row i (modulo their number)."""
        size = self.settings.batch_size
        key = jax.device_put(rng.key("sample", seed, generation), meshes.replicated(self.mesh))
        waiting: Any = None
        for first in range(start, stop, size):
            indices = np.arange(first, first + size, dtype=np.uint32)
            given = jax.device_put((indices, _conditions(real, first, size)), meshes.rows(self.mesh))
            ahead = self.step(model, key, *given), min(size, stop - first)
            if waiting is not None:
                yield _fetch(*waiting)
            waiting = ahead
        if waiting is not None:
            yield _fetch(*waiting)


def _fetch(batch: Any, rows: int) -> dict[str, np.ndarray]:
    return {name: np.asarray(x)[:rows] for name, x in batch.items()}


def _conditions(real: RowSource, first: int, size: int) -> dict[str, np.ndarray]:
    """Real rows first .. first + size, from the start again when they end."""
    first %= len(real)
    if first + size <= len(real):
        return real.read(first, first + size)
    rows = [real[(first + i) % len(real)] for i in range(size)]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


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
    model: nnx.Module,
    generation: Generation,
    real: RowSource,
    rows: int,
    done: Callable[[int], None],
) -> bool:
    """Sample what is missing of the first `rows` rows into shards; False when a row is not finite."""
    recipe = generation.recipe
    have = [(said["first"], said["rows"]) for _, said in generation.shards()]
    missing = plan_shards(have, rows, sampler.settings.rows_per_shard)
    order = sorted([f for f, _ in have] + [f for f, _ in missing])
    names = {f: f"part-{i:05d}-of-{len(order):05d}.array_record" for i, f in enumerate(order)}
    _rename(generation, names)
    written = 0
    for first, count in missing:
        path = generation.path / "synthetic" / names[first]
        with ShardWriter(path, sampler.family.spec) as shard:
            for batch in sampler.rows(
                model, recipe["seed"], recipe["generation"], real, first, first + count
            ):
                if not all(
                    np.all(np.isfinite(x)) for x in batch.values() if np.issubdtype(x.dtype, np.floating)
                ):
                    return False
                shard.write_batch(batch)
                written += len(next(iter(batch.values())))
                done(written)
                faults.point("sample/batch")
                interrupt.poll()
        faults.point("sample/shard")
        generation.journal([path], first=first, rows=count)
    return True


def _rename(generation: Generation, names: dict[int, str]) -> None:
    """Give the shards there are their place in a larger set: link, write down, unlink."""
    moves = [
        (path, path.with_name(names[said["first"]]), said)
        for path, said in generation.shards()
        if path.name != names[said["first"]]
    ]
    known = generation.state["files"]
    for path, new, said in moves:
        new.unlink(missing_ok=True)
        new.hardlink_to(path)
        del known[path.relative_to(generation.path).as_posix()]
        known[new.relative_to(generation.path).as_posix()] = said
    if moves:
        generation.save()
    for path, _, _ in moves:
        path.unlink()
