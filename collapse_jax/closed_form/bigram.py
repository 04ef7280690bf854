"""The memoriser with probabilities, "Hutter++": contexts and continuations both follow Zipf's law.

Dohmatob et al. 2402.07043: context i has p(i) ~ i^-beta and its continuations p(j | i) ~ j^-beta in an order
of its own (which changes no loss, so j is the rank within its context); the model is the table of counted
frequencies, `test_loss` = sum_i p(i) TV(p(. | i), fitted(. | i)), 1 for a context never seen. The stated law is
E ~ T^-c with c = min(1 - 1/beta, 1/2), with slow corrections at finite T. A sampler loses the tail of each
context by top-p or temperature; the teacher is the model before, or p itself ("perfect").

Exact where a fit is on rows of one known law q(. | i), real rows or a perfect teacher's: a context is seen
n ~ Binomial(T, p(i)) times and 2 E TV = sum_j E |Binomial(n, q_j)/n - p_j|, each term by the binomial's tails
(de Moivre 1730 for q = p).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import binom

from collapse_jax.closed_form import draws
from collapse_jax.closed_form.family import Family, Prediction
from collapse_jax.closed_form.hutter import locate, zipf
from collapse_jax.config import choice, number
from collapse_jax.workflows import Workflow

Arrays = dict[str, jax.Array]


@dataclass(frozen=True)
class Bigram(Family):
    """exponent: beta. contexts, symbols: how many i, and j in each. teacher: who samples.
    temperature, top_p: how continuations are drawn, in this order; contexts follow the teacher's frequencies.
    """

    exponent: float = number(1.5, 0.0)
    contexts: int = number(100, 1, 1 << 24)
    symbols: int = number(100, 2, 1 << 24)
    teacher: str = choice("model", ("model", "perfect"))
    temperature: float = number(1.0)
    top_p: float = number(1.0)

    units: ClassVar = {"test_loss": "probability", "unseen_contexts": "probability", "pairs": "pairs"}

    def problems(self) -> Iterator[str]:
        if self.temperature <= 0:
            yield f"temperature={self.temperature:g} must be above 0"
        if not 0 < self.top_p <= 1:
            yield f"top_p={self.top_p:g} must be above 0 and at most 1"

    @property
    def law(self) -> tuple[np.ndarray, np.ndarray]:
        """p(i) [contexts] and p(j | i) [symbols], the same for every i."""
        return zipf(self.exponent, self.contexts), zipf(self.exponent, self.symbols)

    def sampled(self, weights: Any) -> Any:
        """Law of a continuation from weights [..., symbols] (NumPy or JAX); zeros for a row of zeros."""
        xp: Any = np if isinstance(weights, np.ndarray) else jnp
        q = xp.where(weights > 0, weights ** (1 / self.temperature), 0.0)
        total = q.sum(-1, keepdims=True)
        q = q / xp.where(total > 0, total, 1.0)
        if self.top_p < 1:
            order = xp.argsort(-q, axis=-1)
            ranked = xp.take_along_axis(q, order, -1)
            kept = xp.where(xp.cumsum(ranked, -1) - ranked < self.top_p, ranked, 0.0)
            q = xp.take_along_axis(kept, xp.argsort(order, axis=-1), -1)
            total = q.sum(-1, keepdims=True)
            q = q / xp.where(total > 0, total, 1.0)
        return q

    def truth(self, key: jax.Array, rows: int) -> Arrays:
        return {}

    def real(self, truth: Arrays, key: jax.Array, rows: int) -> jax.Array:
        """Pairs as one number, i * symbols + j, int32."""
        contexts, inside = self.law
        return locate(jnp.asarray(np.outer(contexts, inside).ravel()), draws.uniform(key, (rows,)))

    def draw(self, truth: Arrays, params: jax.Array, key: jax.Array, rows: int, **_: Any) -> jax.Array:
        contexts, inside = self.law
        if self.teacher == "perfect":
            joint = jnp.asarray(np.outer(contexts, self.sampled(inside)))
        else:
            joint = params.sum(1, keepdims=True) * self.sampled(params)
        return locate(joint.ravel(), draws.uniform(key, (rows,)))

    def streams(self, workflow: Workflow) -> bool:
        return True

    def statistics(self, truth: Arrays, rows: jax.Array, weight: jax.Array) -> jax.Array:
        """Counts [contexts, symbols]."""
        counts = jnp.zeros(self.contexts * self.symbols).at[rows].add(weight)
        return counts.reshape(self.contexts, self.symbols)

    def estimate(self, truth: Arrays, statistics: jax.Array) -> jax.Array:
        return statistics

    def measure(self, truth: Arrays, params: jax.Array) -> Arrays:
        contexts, inside = self.law
        seen = params.sum(1)
        frequency = params / jnp.maximum(seen, 1)[:, None]
        variation = jnp.where(seen > 0, 0.5 * jnp.abs(frequency - inside).sum(1), 1.0)
        return {
            "test_loss": jnp.asarray(contexts) @ variation,
            "unseen_contexts": jnp.where(seen > 0, 0.0, contexts).sum(),
            "pairs": (params > 0).sum(),
        }

    def predict(self, workflow: Workflow) -> dict[str, Prediction]:
        """Generations fitted on real rows only, or on a perfect teacher's only."""
        contexts, inside = self.law
        values = np.full((3, workflow.generations), np.nan)
        known: dict[tuple[bool, int], tuple[float, float, float]] = {}
        for t, m in enumerate(workflow.mixtures):
            kinds = {s.source > 0 for s in m.slices}
            if len(kinds) > 1 or (True in kinds and self.teacher == "model") or m.take < m.available:
                continue
            kind = (True in kinds, m.available)
            if kind not in known:
                q = self.sampled(inside) if kind[0] else inside
                unseen = float(contexts @ (1 - contexts) ** kind[1])
                pairs = float((1 - (1 - np.outer(contexts, q)) ** kind[1]).sum())
                known[kind] = expected_loss(contexts, inside, q, kind[1]), unseen, pairs
            values[:, t] = known[kind]
        law = "sum_i p_i E TV, binomial counts; ~ T^-min(1-1/beta, 1/2) (2402.07043)"
        names = ("test_loss", "unseen_contexts", "pairs")
        return {name: Prediction(v, law) for name, v in zip(names, values, strict=True)}


def expected_loss(contexts: np.ndarray, real: np.ndarray, taught: np.ndarray, rows: int) -> float:
    """sum_i p(i) E TV(real, frequencies of n_i draws from `taught`), n_i ~ Binomial(rows, p(i)).

    Counts further than twelve standard deviations from their mean are left out.
    """
    spread = 12 * np.sqrt(rows * contexts * (1 - contexts)) + 12
    low = np.maximum(np.floor(rows * contexts - spread), 0).astype(int)
    high = np.minimum(np.ceil(rows * contexts + spread), rows).astype(int)
    needed = np.unique(np.concatenate([np.arange(a, b + 1) for a, b in zip(low, high, strict=True)]))
    variation = np.array([_variation(int(n), real, taught) for n in _thinned(needed)])
    total = 0.0
    for p, a, b in zip(contexts, low, high, strict=True):
        counts = np.arange(a, b + 1)
        total += p * binom.pmf(counts, rows, p) @ np.interp(counts, _thinned(needed), variation)
    return float(total)


def _thinned(counts: np.ndarray) -> np.ndarray:
    """All counts up to 500, from there about a thousand a decade: the mean is smooth in n."""
    return counts[(counts <= 500) | (counts % np.maximum(counts // 500, 1) == 0) | (counts == counts[-1])]


def _variation(n: int, real: np.ndarray, taught: np.ndarray) -> float:
    """E TV(real, frequencies of n draws from `taught`); 1 for n = 0.

    E |X - a| = 2 E (X - a)^+ - (n q - a) with a = n p, and E X [X > a] = n q P(Binomial(n - 1, q) >= floor(a)).
    """
    if n == 0:
        return 1.0
    a = n * real
    above = np.floor(a)
    part = n * taught * binom.sf(above - 1, n - 1, taught) - a * binom.sf(above, n, taught)
    return float((2 * part - (n * taught - a)).sum() / (2 * n))
