"""A memoriser of Zipf-distributed facts, the "Hutter LLM": it knows what it has seen, and its tail goes first.

Dohmatob et al. 2402.07043: fact i has probability p_i ~ i^-beta, c = 1 - 1/beta; a model fitted on T rows
errs on what none of them was, so `test_loss` = sum_i p_i [i unseen] (their eq. 9). A generation samples from
what the one before it saw (teacher "model") or from p itself (teacher "perfect", an AI source without sampling
error), through a sampler that loses the tail: a rank cut k, top-p, or a temperature; rows from the true tail
may be added.

Exact for any table with a perfect teacher: sum_i p_i prod_s (1 - q_si)^rows_s. With a model as teacher and
nothing cut: a symbol's count is the Wright-Fisher chain, in the Poisson limit sum_i p_i exp(-T p_i g_t) with
g_1 = 1, g_{t+1} = 1 - exp(-g_t), so the loss grows like (t/2)^c (the paper states: linearly); where all real
rows stay in the mixture nothing more is ever lost. The second half of this file has the same sums for endless
sources and the laws in powers of T, k, T_0 that they approach.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import gamma, gammainc, zeta

from collapse_jax.closed_form import draws, wright_fisher
from collapse_jax.closed_form.family import Family, Prediction
from collapse_jax.config import choice, number
from collapse_jax.workflows import Workflow


@dataclass(frozen=True)
class Hutter(Family):
    """exponent: beta. symbols: K ranks with p_i ~ i^-beta. teacher: who samples, see the module.

    temperature, rank_cut (ranks kept, 0: all), top_p: how samples are drawn, in this order.
    tail_start, tail_share: share of the samples drawn instead from the true tail, ranks tail_start and beyond.
    """

    exponent: float = number(1.5, 0.0)
    symbols: int = number(10_000, 2, 1 << 24)
    teacher: str = choice("model", ("model", "perfect"))
    temperature: float = number(1.0)
    rank_cut: int = number(0, 0)
    top_p: float = number(1.0)
    tail_start: int = number(1, 1)
    tail_share: float = number(0.0, 0.0, 1.0)

    units: ClassVar = {"test_loss": "probability", "survivors": "symbols"}

    def problems(self) -> Iterator[str]:
        if self.temperature <= 0:
            yield f"temperature={self.temperature:g} must be above 0"
        if not 0 < self.top_p <= 1:
            yield f"top_p={self.top_p:g} must be above 0 and at most 1"
        if self.rank_cut > self.symbols:
            yield f"rank_cut={self.rank_cut} is beyond the {self.symbols} symbols; use 0 to keep all"
        if self.tail_start > self.symbols:
            yield f"tail_start={self.tail_start} is beyond the {self.symbols} symbols"

    @property
    def changed(self) -> bool:
        """Whether samples follow another law than the model's frequencies."""
        return bool(self.temperature != 1 or self.rank_cut or self.top_p < 1 or self.tail_share)

    def probabilities(self) -> np.ndarray:
        """[K], the real distribution."""
        return zipf(self.exponent, self.symbols)

    def sampled(self, weights: Any) -> Any:
        """[K], the law of a sample of a model with these weights (NumPy or JAX)."""
        xp = np if isinstance(weights, np.ndarray) else jnp
        q = xp.where(weights > 0, weights ** (1 / self.temperature), 0.0)
        if self.rank_cut:
            q = xp.where(np.arange(self.symbols) < self.rank_cut, q, 0.0)
        if self.top_p < 1:
            q = _nucleus(q / q.sum(), self.top_p, xp)
        band = np.where(np.arange(1, self.symbols + 1) >= self.tail_start, self.probabilities(), 0.0)
        q = q / xp.where(q.sum() > 0, q.sum(), 1.0)
        return (1 - self.tail_share) * q + self.tail_share * band / band.sum()

    def truth(self, key: jax.Array, rows: int) -> jax.Array:
        return jnp.asarray(self.probabilities())

    def real(self, truth: jax.Array, key: jax.Array, rows: int) -> jax.Array:
        """Ranks from 0, int32."""
        return locate(jnp.asarray(self.probabilities()), draws.uniform(key, (rows,)))

    def draw(self, truth: jax.Array, params: jax.Array, key: jax.Array, rows: int, **_: Any) -> jax.Array:
        perfect = self.teacher == "perfect"
        law = jnp.asarray(self.sampled(self.probabilities())) if perfect else self.sampled(params)
        return locate(law, draws.uniform(key, (rows,)))

    def streams(self, workflow: Workflow) -> bool:
        return True

    def statistics(self, truth: jax.Array, rows: jax.Array, weight: jax.Array) -> jax.Array:
        """Counts [K]."""
        return jnp.zeros(self.symbols).at[rows].add(weight)

    def estimate(self, truth: jax.Array, statistics: jax.Array) -> jax.Array:
        return statistics

    def measure(self, truth: jax.Array, params: jax.Array) -> dict[str, jax.Array]:
        seen = params > 0
        return {"test_loss": jnp.where(seen, 0.0, truth).sum(), "survivors": seen.sum()}

    def predict(self, workflow: Workflow) -> dict[str, Prediction]:
        """Perfect teacher: any table that is used whole. Model as teacher: replace with any sizes, and tables
        that keep all real rows, both without changes to the samples.
        """
        p = self.probabilities()
        whole = all(m.take == m.available for m in workflow.mixtures)
        if self.teacher == "perfect":
            if not whole:
                return {}
            q = self.sampled(p)
            laws = [[(q if s.source else p, s.rows) for s in m.slices] for m in workflow.mixtures]
            missing = np.stack([absence(law) for law in laws])
            return _both(p, missing, "sum_i p_i prod_s (1 - q_si)^rows_s; 2402.07043 eq. 9")
        if self.changed:
            return {}
        first = workflow.mixtures[0].slices[0].rows
        if whole and all(m.slices[0].source == 0 and m.slices[0].rows == workflow.rows_needed(0)
                         for m in workflow.mixtures):  # fmt: skip
            missing = np.tile(absence([(p, first)]), (workflow.generations, 1))
            return _both(p, missing, "sum_i p_i (1 - p_i)^n: what real rows hold is never lost")
        if not whole or any(m.sources != (m.generation - 1,) for m in workflow.mixtures):
            return {}
        sizes = [m.available for m in workflow.mixtures]
        if len(set(sizes)) == 1 and wright_fisher.applies(first, self.symbols):
            unseen = (np.arange(first + 1) == 0).astype(float)[:, None]
            missing = wright_fisher.expectations(first, p, unseen, len(sizes))[:, :, 0]
            return _both(p, missing, "sum_i p_i P(count = 0) of the exact Wright-Fisher chain")
        missing = np.exp(-first * np.outer(survival(sizes), p))
        return _both(p, missing, "sum_i p_i exp(-T p_i g_t), g_{t+1} = 1 - exp(-g_t); Poisson limit", False)


def _both(p: np.ndarray, missing: np.ndarray, law: str, exact: bool = True) -> dict[str, Prediction]:
    """Predictions from P(symbol unseen), [generations, K]."""
    return {
        "test_loss": Prediction(missing @ p, law, exact),
        "survivors": Prediction((1 - missing).sum(1), law, exact),
    }


def locate(weights: jax.Array, u: jax.Array) -> jax.Array:
    """Index drawn with these weights by each uniform, int32; weight 0 is never drawn."""
    edges = jnp.cumsum(weights)
    # Known edges would be searched while compiling, for seconds.
    edges = jax.lax.optimization_barrier(edges / edges[-1])
    return jnp.searchsorted(edges, u, side="right", method="scan_unrolled").astype(jnp.int32)


def _nucleus(q: Any, mass: float, xp: Any) -> Any:
    """The fewest most probable symbols that hold at least `mass` keep their weights."""
    order = xp.argsort(-q)
    before = xp.cumsum(q[order]) - q[order]
    kept = xp.where(before < mass, q[order], 0.0)
    if xp is np:
        out = np.zeros_like(q)
        out[order] = kept
        return out
    return jnp.zeros_like(q).at[order].set(kept)


def zipf(exponent: float, symbols: int) -> np.ndarray:
    """p_i ~ i^-exponent over i = 1..symbols, summing to one."""
    p = np.arange(1, symbols + 1, dtype=float) ** -exponent
    return p / p.sum()


def absence(sources: Iterable[tuple[np.ndarray, float]]) -> np.ndarray:
    """P(symbol in none of the rows), [K], given (law [K], rows) of independent sources."""
    with np.errstate(divide="ignore"):
        return np.exp(sum(rows * np.log1p(-q) for q, rows in sources))


def survival(sizes: Iterable[int]) -> np.ndarray:
    """g_t of a chain of samples with these sizes: a rare symbol is missed by generation t with exp(-T_1 p g_t).

    A count in generation s + 1 is Poisson about count_s T_{s+1} / T_s, so the extinction probabilities of a
    branching process nest; equal sizes give g_1 = 1, g_{t+1} = 1 - exp(-g_t), and t g_t -> 2.
    """
    sizes = list(sizes)
    out = np.ones(len(sizes))
    for t in range(1, len(sizes)):
        g = 1.0
        for s in range(t, 0, -1):
            g = -np.expm1(-g * sizes[s] / sizes[s - 1])
        out[t] = g
    return out


# Endless sources: i = 1, 2, ... with Z = zeta(beta).


def endless_loss(exponent: float, rows: float, cut: float = np.inf, terms: int = 1_000_000) -> float:
    """sum_i p_i (1 - q_i)^rows, q = p renormalised on ranks <= cut: `terms` terms, then the integral."""
    z = zeta(exponent)
    p = np.arange(1, min(terms, 1e9) + 1, dtype=float) ** -exponent / z
    if cut <= terms:
        q = np.where(np.arange(terms) < cut, p, 0.0)
        return float(p @ np.exp(rows * np.log1p(-q / q.sum()))) + plateau(exponent, terms)
    if np.isfinite(cut):
        raise ValueError(f"cut={cut:g} must be at most the {terms} terms that are summed")
    c, edge = 1 - 1 / exponent, rows * (terms + 0.5) ** -exponent / z
    rest = gamma(c) * gammainc(c, edge) / (exponent * z ** (1 / exponent)) * rows**-c
    return float(p @ np.exp(rows * np.log1p(-p)) + rest)


def clean_law(exponent: float, rows: float) -> float:
    """Gamma(c) / (beta Z^(1/beta)) T^-c, the sharp form of E ~ T^-c (Hutter 2021, 2402.07043 section 2)."""
    c = 1 - 1 / exponent
    return float(gamma(c) / (exponent * zeta(exponent) ** (1 / exponent)) * rows**-c)


def plateau(exponent: float, cut: float) -> float:
    """sum_{i > k} p_i, what a source cut at rank k can never teach; ~ k^(1-beta) / ((beta - 1) Z) (Thm 2.1)."""
    return float(zeta(exponent, cut + 1) / zeta(exponent))


def narrow_law(exponent: float, narrowed: float, rows: float) -> float:
    """Loss on p_i ~ i^-beta of a model taught by q_i ~ i^-beta', beta' = beta/temperature > beta, to leading order:

    Gamma(a) / (Z beta') (T / Z')^-a, a = (beta - 1)/beta'.
    """
    a = (exponent - 1) / narrowed
    return float(gamma(a) / (zeta(exponent) * narrowed) * (rows / zeta(narrowed)) ** -a)


def deep_tail_floor(exponent: float, cut: float, start: float) -> float:
    """sum of p_i over cut < i < start: lost for ever when tail rows begin at rank `start` (Thm 3.1)."""
    return max(0.0, plateau(exponent, cut) - plateau(exponent, start - 1))
