"""Evaluation: means of a family's metrics over rows in order, the last batch padded and weighted out."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from collapse_jax import interrupt, rng
from collapse_jax import mesh as meshes
from collapse_jax.families import Batch, Family
from collapse_jax.lanes import axis, filled, over

Weighted = Iterable[tuple[dict[str, np.ndarray], np.ndarray]]  # (local part of a batch, row weights)


class Evaluator:
    """The compiled evaluation of a family on a mesh, for `lanes` models side by side."""

    def __init__(self, family: Family, mesh: Mesh, lanes: int = 1):
        self.family, self.mesh, self.lanes = family, mesh, lanes
        self.key = jax.device_put(rng.key("evaluate"), meshes.replicated(mesh))
        self.step = jax.jit(over(self._step, lanes, (0, 0, 0, 0, None)))

    def _step(
        self, model: nnx.Module, batch: Batch, weight_B: jax.Array, at_B: jax.Array, key: jax.Array
    ) -> dict:
        # row i has the same random numbers in every generation, so that generations differ by their models
        keys_B = jax.vmap(lambda i: jax.random.fold_in(key, i))(at_B)
        return self.family.evaluate(model, batch, weight_B, keys_B)

    def __call__(self, models_G: Any, batches: Sequence[Weighted]) -> list[dict[str, float]]:
        """metric -> mean, for each of the first models over its batches, which are equally many.

        Sums are taken in f64 on the host.
        """
        sums: list[dict[str, np.ndarray]] = [defaultdict(lambda: np.zeros(2)) for _ in batches]
        waiting: Any = None
        for number, given in enumerate(zip(*batches, strict=True)):
            size = meshes.whole(self.mesh, len(given[0][1]))
            at = (number * size + meshes.held(self.mesh, size)).astype(np.uint32)
            stacked = jax.tree.map(lambda *xs: np.stack(xs), *filled([(*g, at) for g in given], self.lanes))
            ahead = self.step(models_G, *meshes.place(self.mesh, stacked, axis(self.lanes), "data"), self.key)
            _add(sums, waiting)
            waiting = ahead
            interrupt.poll()
        _add(sums, waiting)
        return [
            {name: float(total / weight) if weight else float("nan") for name, (total, weight) in s.items()}
            for s in sums
        ]


def _add(sums: list[dict[str, np.ndarray]], found: Any) -> None:
    for name, (total_G, weight_G) in (found or {}).items():
        total_G, weight_G = np.asarray(total_G, np.float64), np.asarray(weight_G, np.float64)
        for lane, lane_sums in enumerate(sums):
            lane_sums[name] += (total_G[lane], weight_G[lane])
