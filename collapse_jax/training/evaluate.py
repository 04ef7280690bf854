"""Evaluation: means of a family's metrics over rows in order, the last batch padded and weighted out."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from collapse_jax import interrupt
from collapse_jax import mesh as meshes
from collapse_jax.families import Family


class Evaluator:
    """The compiled evaluation of a family on a mesh."""

    def __init__(self, family: Family, mesh: Mesh):
        self.family, self.mesh = family, mesh
        self.step = jax.jit(lambda model, batch, weight: family.evaluate(model, batch, weight))

    def __call__(
        self, model: nnx.Module, batches: Iterable[tuple[dict[str, np.ndarray], np.ndarray]]
    ) -> dict:
        """metric -> mean over (batch, row weight) pairs; sums are taken in f64 on the host."""
        sums: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(2))
        waiting: Any = None
        for batch, weight in batches:
            placed = jax.device_put((batch, weight), meshes.rows(self.mesh))
            ahead = self.step(model, *placed)
            self._add(sums, waiting)
            waiting = ahead
            interrupt.poll()
        self._add(sums, waiting)
        return {
            name: float(total / weight) if weight else float("nan") for name, (total, weight) in sums.items()
        }

    @staticmethod
    def _add(sums: dict[str, np.ndarray], found: Any) -> None:
        for name, pair in (found or {}).items():
            sums[name] += np.array([float(x) for x in pair])
