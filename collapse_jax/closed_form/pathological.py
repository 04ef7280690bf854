"""A family whose maximum-likelihood fit is consistent, and which yet collapses at the second generation.

Barzilai & Shamir 2505.19046 show that accumulated data do not save a likelihood without smoothness, by mixtures
of a uniform with a uniform so narrow that a single row in it outweighs all others. Their width is not
given in our sources; the family below is ours, in their spirit, and its law is exact for every n. Its members are

    U[m, m + 1] for any m    and    U[-1, 2] / 2 + U[v, v + w] / 2 for any v whose spike misses [0, 1],

and the real rows are U[0, 1]. N rows within a unit interval have likelihood 1 under a uniform; any N rows have at
most 6^-N under a mixture whose spike holds none of them, and at least (3/w) 6^-N under one whose spike holds one.
So while all rows lie in [0, 1] the fit is a uniform, any with max - 1 <= m <= min; the smallest m is taken, its
distance to the truth, 1 - max, is about 1/n. With one row outside [0, 1], and w < 3 / 6^N, the fit is a mixture,
with the spike where most rows are. For a fixed w and n -> infinity every member is fitted consistently, and real
rows alone never make a mixture, whatever their number; but the first model reaches 1 - max below 0, and any row
from there is the end.

Law: let s = 1 + m. Rows of a uniform all lie in [0, 1] with probability s each, and the largest of k rows of
U[0, s] is s U^(1/k). Where all first real rows stay, s does, and after M synthetic rows have been seen

    P(not collapsed) = E s^M = n / (n + M):    accumulate 1/t, whatever n, although every real row is there.

Where only the m_t rows of the last generation are used it is prod_{j<=t} m_j / (m_j + ... + m_t): replace 1/t!.
The total variation to the truth is 1 - s of a uniform and 5/6 of a mixture. Such widths are far below the
spacing of floats: rows of a spike are equal numbers here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.closed_form import draws
from collapse_jax.closed_form.family import Family, Prediction
from collapse_jax.workflows import Workflow

FAR = 5 / 6  # total variation of a mixture: it shares a sixth with U[0, 1]
FEWEST = 10


@dataclass(frozen=True)
class Pathological(Family):
    """No settings: U[0, 1] is the truth, the width w is below 3 / 6^N for the N rows of every fit."""

    units: ClassVar = {"test_loss": "total variation", "collapsed": "probability"}

    def refuses(self, workflow: Workflow) -> Iterator[str]:
        least = min(m.take for m in workflow.mixtures)
        if least < FEWEST:
            yield (
                f"rows={least} in a generation is too few: a collapsed model would return with probability "
                f"6^-{least}; use {FEWEST} or more"
            )

    def truth(self, key: jax.Array, rows: int) -> tuple[()]:
        return ()

    def real(self, truth: Any, key: jax.Array, rows: int) -> jax.Array:
        return draws.uniform(key, (rows,))

    def fit(self, truth: Any, rows: jax.Array, weight: jax.Array) -> dict[str, jax.Array]:
        """low: m of the uniform. collapsed: whether it is a mixture instead, with its spike at `spike`."""
        outside = ((rows < 0) | (rows > 1)) & (weight > 0)
        value = jnp.sort(jnp.where(outside, rows, jnp.inf))
        place = jnp.arange(len(rows))
        first = jax.lax.cummax(jnp.where(jnp.diff(value, prepend=-jnp.inf) > 0, place, 0))
        copies = jnp.where(jnp.isfinite(value), place - first + 1, 0)
        return {
            "low": jnp.where(weight > 0, rows, -jnp.inf).max() - 1,
            "collapsed": outside.any(),
            "spike": value[copies.argmax()],
        }

    def draw(
        self, truth: Any, params: dict[str, jax.Array], key: jax.Array, rows: int, **_: Any
    ) -> jax.Array:
        of_value, of_side = jax.random.split(key)
        u = draws.uniform(of_value, (rows,))
        mixture = jnp.where(draws.uniform(of_side, (rows,)) < 0.5, params["spike"], 3 * u - 1)
        return jnp.where(params["collapsed"], mixture, params["low"] + u)

    def measure(self, truth: Any, params: dict[str, jax.Array]) -> dict[str, jax.Array]:
        far = params["collapsed"]
        return {"test_loss": jnp.where(far, FAR, -params["low"]), "collapsed": far}

    def predict(self, workflow: Workflow) -> dict[str, Prediction]:
        """Tables that keep all first real rows, or use the last generation only; both without subsets."""
        kept = _kept(workflow)
        if kept is None:
            return {}
        alive, reach, law = kept
        return {
            "collapsed": Prediction(1 - alive, law),
            "test_loss": Prediction(
                alive - reach + FAR * (1 - alive), f"E (1 - s) + 5/6 P(collapsed); {law}"
            ),
        }


def _kept(workflow: Workflow) -> tuple[np.ndarray, np.ndarray, str] | None:
    """P(not collapsed), E s where not collapsed (0 elsewhere), both [generations], and the law; None without one."""
    mixtures = workflow.mixtures
    if any(m.take < m.available for m in mixtures):
        return None
    sizes = np.array([m.available for m in mixtures], float)
    if all(m.sources == (m.generation - 1,) for m in mixtures):
        left = [np.cumsum(sizes[:t][::-1])[::-1] for t in range(1, len(sizes) + 1)]
        alive, reach = (np.array([np.prod(sizes[: len(x)] / (x + more)) for x in left]) for more in (0, 1))
        return alive, reach, "prod m_j/(m_j + ... + m_t): replace 1/t!"
    real = [[(s.start, s.rows) for s in m.slices if s.source == 0] for m in mixtures]
    if any(r != [(0, workflow.rows)] for r in real):
        return None
    most = np.zeros(workflow.generations)  # the first rows of each source that any mixture has used
    seen = []
    for m in mixtures:
        for s in m.slices:
            if s.source:
                most[s.source] = max(most[s.source], s.start + s.rows)
        seen.append(most.sum())
    n, total = workflow.rows, np.array(seen)
    return n / (n + total), n / (n + total + 1), "n/(n + M) with M synthetic rows seen: accumulate 1/t"
