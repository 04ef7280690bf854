"""What a closed-form family is: an estimator, its sampler and its exact prediction side by side.

A family is a frozen dataclass of settings that subclasses `Family`. All methods but `predict`, `outcome` and
the checks are traced for ONE seed, in f64, without Python side effects; the engine maps them over seeds and
scans them over generations. `rows: int` is static, arrays named `rows` lead with the row axis, `weight` is 0
or 1 for each row.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.workflows import Workflow

Tree = Any


@dataclass(frozen=True)
class Prediction:
    """Expectation of a metric over seeds.

    values: [generations], nan where no law is known. law: formula and paper in one line.
    exact: whether it holds for every sample size (else to leading order). diverges: whether it grows without
    bound as generations go on; None where nobody has worked it out. spread: [generations], standard deviation of
    one seed's value over the expectation, which tells how many seeds the mean needs; nan where unknown.
    """

    values: np.ndarray
    law: str
    exact: bool = True
    diverges: bool | None = None
    spread: np.ndarray | float = np.nan


class Family:
    """The protocol with its defaults; a new family writes `truth`, `real`, `fit`, `draw` and `measure`.

    units: metric -> unit of everything `measure` may return.
    signed: those that may be negative; the mean of any other is not normal while its error is over a tenth.
    at_end: metric -> unit of what `outcome` may return.
    numbered: what a real row is depends on its number in the source, and `real` takes `start`, that of its first.
    resamples: `draw` picks rows of the generation's own mixture (kernel densities) and takes `pick`.
    """

    units: ClassVar[Mapping[str, str]] = {}
    signed: ClassVar[tuple[str, ...]] = ()
    at_end: ClassVar[Mapping[str, str]] = {}
    resamples: ClassVar[bool] = False
    numbered: ClassVar[bool] = False
    draws_statistics: ClassVar[bool] = False

    def problems(self) -> Iterator[str]:
        """What is wrong with the settings, a line each."""
        return iter(())

    def refuses(self, workflow: Workflow) -> Iterator[str]:
        """Why the workflow cannot be run with these settings, a line each."""
        return iter(())

    def metrics(self, workflow: Workflow) -> tuple[str, ...]:
        """What is measured unless the panel names it; cheap and finite ones."""
        return tuple(self.units)

    def truth(self, key: jax.Array, rows: int) -> Tree:
        """What one seed keeps for its whole chain: true parameters, fixed inputs, test points."""
        raise NotImplementedError

    def real(self, truth: Tree, key: jax.Array, rows: int, **start: Any) -> Tree:
        """Real rows: a pytree of arrays [rows, ...]. With `numbered` a keyword `start` says which of the source."""
        raise NotImplementedError

    def fit(self, truth: Tree, rows: Tree, weight: jax.Array) -> Tree:
        """The fitted parameters."""
        return self.estimate(truth, self.statistics(truth, rows, weight))

    def draw(self, truth: Tree, params: Tree, key: jax.Array, rows: int, **pick: Any) -> Tree:
        """Synthetic rows of the fitted model, shaped as real ones.

        With `resamples` a keyword `pick(key, count)` gives `count` rows of the mixture that was fitted,
        chosen uniformly with replacement.
        """
        raise NotImplementedError

    def measure(self, truth: Tree, params: Tree) -> dict[str, jax.Array]:
        """Scalars, a subset of `units`. What the panel does not ask for costs nothing."""
        raise NotImplementedError

    def predict(self, workflow: Workflow) -> dict[str, Prediction]:
        """The laws that hold for this table."""
        return {}

    def outcome(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What only whole chains show: {metric of `at_end`: [seeds]} of {metric: [seeds, generations]}."""
        return {}

    # Streaming: a family whose fit needs only statistics that merge may skip the pool.

    def streams(self, workflow: Workflow) -> bool:
        """Whether `statistics`, `merge` and `estimate` are enough for this table."""
        return False

    def statistics(self, truth: Tree, rows: Tree, weight: jax.Array) -> Tree:
        """Sufficient statistics of the weighted rows."""
        raise NotImplementedError

    def merge(self, truth: Tree, a: Tree, b: Tree) -> Tree:
        """Statistics of two sets of rows together. All zeros must be the statistics of no rows."""
        return jax.tree.map(jnp.add, a, b)

    def estimate(self, truth: Tree, statistics: Tree) -> Tree:
        """`fit` from statistics."""
        raise NotImplementedError

    def reduced(self, truth: Tree, params: Tree, key: jax.Array, rows: int, weight: jax.Array) -> Tree:
        """`statistics` of `draw`, from the same random numbers, where the rows need not be kept."""
        return self.statistics(truth, self.draw(truth, params, key, rows), weight)

    def real_statistics(self, truth: Tree, key: jax.Array, rows: jax.Array) -> Tree:
        """`statistics(real(...))` drawn directly, `rows` traced. Needs `draws_statistics`."""
        raise NotImplementedError

    def draw_statistics(self, truth: Tree, params: Tree, key: jax.Array, rows: jax.Array) -> Tree:
        """`statistics(draw(...))` drawn directly, equal in law, `rows` traced. Needs `draws_statistics`."""
        raise NotImplementedError
