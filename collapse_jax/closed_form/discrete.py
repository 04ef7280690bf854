"""A distribution over K symbols refitted by empirical frequencies (Wright-Fisher drift).

Settings and laws of Schaeffer et al. 2503.03150 and Kazdan et al. 2410.16713 (uniform), Suresh et al.
2412.17646 (Zipf-Mandelbrot), Seddik et al. 2404.05090 (heterozygosity). The one-hot vector of a row has
covariance trace 1 - sum p^2, the heterozygosity, so its decay and the squared error of the frequencies
follow from the exact recursion of second moments for any table; under replace everything else follows
from the marginal Wright-Fisher chain.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import xlogy

from collapse_jax.closed_form import draws, moments, wright_fisher
from collapse_jax.closed_form.family import Family, Prediction
from collapse_jax.config import choice, number
from collapse_jax.workflows import Workflow

SMALL = 64


@dataclass(frozen=True)
class Discrete(Family):
    """kind: "uniform", "zipf" (i^-exponent), "zipf_mandelbrot" ((i + shift)^-exponent) over `symbols`
    ranks, or "weights": the probabilities themselves, summing to one.
    """

    kind: str = choice("uniform", ("uniform", "zipf", "zipf_mandelbrot", "weights"))
    symbols: int = number(10, 2, 1 << 24)
    exponent: float = number(1.5, 0.0)
    shift: float = number(2.7, 0.0)
    weights: tuple = ()

    units: ClassVar = {
        "entropy": "nats",
        "heterozygosity": "probability",
        "survivors": "symbols",
        "missing_mass": "probability",
        "collapsed": "probability",
        "test_loss": "squared probability",
        "total_variation": "probability",
    }
    at_end: ClassVar = {"generations_to_collapse": "generations"}

    def problems(self) -> Iterator[str]:
        if self.kind != "weights":
            return
        numbers = all(isinstance(x, int | float) for x in self.weights)
        w = np.array(self.weights if numbers else (), float)
        if len(w) < 2 or not np.isfinite(w).all() or (w < 0).any():
            yield "weights must be at least two probabilities >= 0, e.g. (0.5, 0.3, 0.2)"
        elif abs(w.sum() - 1) > 1e-9:
            yield f"weights sum to {w.sum():.12g} and must sum to 1"

    def probabilities(self) -> np.ndarray:
        """[K], the real distribution."""
        ranks = np.arange(1, self.symbols + 1, dtype=float)
        p = {
            "uniform": np.ones(self.symbols),
            "zipf": ranks**-self.exponent,
            "zipf_mandelbrot": (ranks + self.shift) ** -self.exponent,
            "weights": np.array(self.weights, float),
        }[self.kind]
        return p / p.sum()

    def truth(self, key: jax.Array, rows: int) -> jax.Array:
        return jnp.asarray(self.probabilities())

    def real(self, truth: jax.Array, key: jax.Array, rows: int) -> jax.Array:
        edges = np.cumsum(self.probabilities())
        return _locate(jnp.asarray(edges / edges[-1]), draws.uniform(key, (rows,)))

    def draw(self, truth: jax.Array, params: jax.Array, key: jax.Array, rows: int, **_: Any) -> jax.Array:
        return _locate(*_places(params, key, rows))

    def reduced(
        self, truth: jax.Array, params: jax.Array, key: jax.Array, rows: int, weight: jax.Array
    ) -> jax.Array:
        """Few symbols: rows below each edge are counted at once, without naming the symbol of each."""
        limits, place = _places(params, key, rows)
        if len(limits) > SMALL:
            return self.statistics(truth, _locate(limits, place), weight)
        place = jnp.where(weight > 0, place, 2**33)
        # In quarters: XLA on the CPU makes scalar code, five times slower, of one sum over all rows.
        below = sum((q < limits[:, None]).sum(1) for q in jnp.array_split(place, 4))
        return jnp.diff(below, prepend=0).astype(float)  # pyright: ignore

    def streams(self, workflow: Workflow) -> bool:
        return True

    def statistics(self, truth: jax.Array, rows: jax.Array, weight: jax.Array) -> jax.Array:
        """Counts [K]."""
        k = len(truth)
        if k <= SMALL:
            return weight @ (rows[:, None] == jnp.arange(k)).astype(float)
        return jnp.zeros(k).at[rows].add(weight)

    def estimate(self, truth: jax.Array, statistics: jax.Array) -> jax.Array:
        return statistics

    def measure(self, truth: jax.Array, params: jax.Array) -> dict[str, jax.Array]:
        p = params / params.sum()
        alive = p > 0
        return {
            "entropy": -jnp.where(alive, p * jnp.log(jnp.where(alive, p, 1.0)), 0.0).sum(),
            "heterozygosity": 1 - (p**2).sum(),
            "survivors": alive.sum(),
            "missing_mass": jnp.where(alive, 0.0, truth).sum(),
            "collapsed": alive.sum() == 1,
            "test_loss": ((p - truth) ** 2).sum(),
            "total_variation": 0.5 * jnp.abs(p - truth).sum(),
        }

    def outcome(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """First generation with a single symbol, nan for chains that keep more to the end."""
        if "collapsed" not in values:
            return {}
        done = values["collapsed"] > 0
        return {"generations_to_collapse": np.where(done.any(1), done.argmax(1) + 1.0, np.nan)}

    def predict(self, workflow: Workflow) -> dict[str, Prediction]:
        """Any table: heterozygosity, test_loss. Replace up to 2000 rows: the rest but total_variation."""
        p = self.probabilities()
        start = float(1 - (p**2).sum())
        m = moments.recursion(workflow, lambda center, spread, rows: spread, start)
        law = "second moments over the table: Q_0 (1-1/n)^t, Q_0 prod 1-1/(n i^2) (2404.05090, 2410.16713)"
        out = {"heterozygosity": Prediction(m.spread, law), "test_loss": Prediction(m.center, law)}
        replaces = all(
            len(x.slices) == 1 and x.slices[0].source == x.generation - 1 and x.available == workflow.rows
            for x in workflow.mixtures
        )
        levels, copies = np.unique(p, return_counts=True)
        if replaces and wright_fisher.applies(workflow.rows, len(levels)):
            out |= _drift(levels, copies, workflow.rows, workflow.generations)
        return out


def _drift(levels: np.ndarray, copies: np.ndarray, rows: int, generations: int) -> dict[str, Prediction]:
    share = np.arange(rows + 1) / rows
    of_count = np.stack([-xlogy(share, share), share > 0, share == 0, share == 1], 1).astype(float)
    e = wright_fisher.expectations(rows, levels, of_count, generations)
    law = "exact marginal Wright-Fisher chain, summed over symbols"
    sums = np.einsum("tkf,k->tf", e, copies)
    when = np.full(generations, np.nan)
    when[-1] = wright_fisher.time_to_fixation(rows, levels, copies)
    return {
        "entropy": Prediction(sums[:, 0], law),
        "survivors": Prediction(sums[:, 1], law),
        "missing_mass": Prediction(e[:, :, 2] @ (levels * copies), law),
        "collapsed": Prediction(sums[:, 3], law),
        "generations_to_collapse": Prediction(when, law),
    }


def _places(counts: jax.Array, key: jax.Array, rows: int) -> tuple[jax.Array, jax.Array]:
    """Cumulative shares [K] of the counts in units of 2^-32, and whole numbers below 2^32 [rows].

    A row is the symbol of the first edge above its number. Edges are rounded up, so a chance is off by 2^-32 at
    most and lost symbols stay lost.
    """
    edges = jnp.cumsum(counts)
    return jnp.ceil(edges * (2.0**32 / edges[-1])).astype(jnp.int64), draws.words(key, rows)


def _locate(edges: jax.Array, u: jax.Array) -> jax.Array:
    """Index of the first edge above each u, int32."""
    if len(edges) <= SMALL:
        return (u[:, None] >= edges[None, :]).sum(1).astype(jnp.int32)
    return jnp.searchsorted(edges, u, side="right", method="scan_unrolled").astype(jnp.int32)
