"""Exponential families with one parameter, their mean, refitted by the average of the rows.

The variance of a row is quadratic in the mean, V(theta) = a + b theta + c theta^2 (Morris 1982), so the
expected squared error obeys an exact recursion for any table. Accumulate inflates it by sum 1/i^2 ->
pi^2/6 whatever the family (Dey & Donoho 2410.22812), replace by t to leading order; for every n replace
gives (1+1/n)^t - 1 (exponential, relative), n (1 - (1-1/n)^t) (Bernoulli), t (Poisson, normal). Settings
of Suresh et al. 2412.17646 for extinction under replace.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.closed_form import draws, moments, wright_fisher
from collapse_jax.closed_form.family import Family, Prediction
from collapse_jax.config import choice, number
from collapse_jax.workflows import Workflow

CURVATURE = {"normal": 0.0, "poisson": 0.0, "exponential": 1.0, "bernoulli": -1.0}


@dataclass(frozen=True)
class Exponential(Family):
    """distribution: of a row. mean: theta of the real data. variance: of a row, normal only (known)."""

    distribution: str = choice("exponential", tuple(CURVATURE))
    mean: float = number(1.0)
    variance: float = number(1.0)

    units: ClassVar = {
        "test_loss": "squared units",
        "inflation": "ratio",
        "mean_ratio": "ratio",
        "alive": "probability",
    }
    draws_statistics: ClassVar[bool] = True

    def problems(self) -> Iterator[str]:
        if self.distribution == "normal" and self.variance <= 0:
            yield f"variance={self.variance:g} must be above 0"
        if self.distribution == "bernoulli" and not 0 < self.mean < 1:
            yield f"mean={self.mean:g} of a Bernoulli must be between 0 and 1"
        elif self.distribution in ("exponential", "poisson") and self.mean <= 0:
            yield f"mean={self.mean:g} of {self.distribution} rows must be above 0"

    def metrics(self, workflow: Workflow) -> tuple[str, ...]:
        counts = self.distribution in ("bernoulli", "poisson")
        return ("test_loss", "inflation", "alive") if counts else ("test_loss", "inflation")

    @property
    def real_variance(self) -> float:
        """Variance of one real row."""
        theta = self.mean
        return {
            "normal": self.variance,
            "poisson": theta,
            "exponential": theta**2,
            "bernoulli": theta * (1 - theta),
        }[self.distribution]

    def truth(self, key: jax.Array, rows: int) -> dict[str, Any]:
        return {"mean": jnp.asarray(self.mean, float), "rows": jnp.asarray(rows, float)}

    def real(self, truth: dict[str, Any], key: jax.Array, rows: int) -> jax.Array:
        return self.draw(truth, truth["mean"], key, rows)

    def draw(
        self, truth: dict[str, Any], params: jax.Array, key: jax.Array, rows: int, **_: Any
    ) -> jax.Array:
        if self.distribution == "normal":
            return params + np.sqrt(self.variance) * draws.normal(key, (rows,))
        if self.distribution == "exponential":
            return -params * jnp.log1p(-draws.uniform(key, (rows,)))
        if self.distribution == "bernoulli":
            return (draws.uniform(key, (rows,)) < params).astype(float)
        return jax.random.poisson(key, params, (rows,)).astype(float)

    def streams(self, workflow: Workflow) -> bool:
        return True

    def statistics(self, truth: dict[str, Any], rows: jax.Array, weight: jax.Array) -> dict[str, jax.Array]:
        return {"count": weight.sum(), "sum": weight @ rows}

    def estimate(self, truth: dict[str, Any], statistics: dict[str, jax.Array]) -> jax.Array:
        return statistics["sum"] / statistics["count"]

    def real_statistics(self, truth: dict[str, Any], key: jax.Array, rows: jax.Array) -> dict[str, jax.Array]:
        return self.draw_statistics(truth, truth["mean"], key, rows)

    def draw_statistics(
        self, truth: dict[str, Any], params: jax.Array, key: jax.Array, rows: jax.Array
    ) -> dict[str, jax.Array]:
        """The sum of the rows is normal, gamma, binomial or Poisson."""
        if self.distribution == "normal":
            total = rows * params + jnp.sqrt(rows * self.variance) * draws.normal(key)
        elif self.distribution == "exponential":
            total = params * draws.gamma(key, rows[None])[0]
        elif self.distribution == "bernoulli":
            total = jax.random.binomial(key, rows, params)
        else:
            total = jax.random.poisson(key, rows * params).astype(float)
        return {"count": rows, "sum": total}

    def measure(self, truth: dict[str, Any], params: jax.Array) -> dict[str, jax.Array]:
        error = (params - truth["mean"]) ** 2
        return {
            "test_loss": error,
            "inflation": error * truth["rows"] / self.real_variance,
            "mean_ratio": params / truth["mean"],
            "alive": params > 0,
        }

    def predict(self, workflow: Workflow) -> dict[str, Prediction]:
        """Any table: test_loss, inflation (= n test_loss / V(theta)), mean_ratio. Replace: alive."""
        variance, bend = self.real_variance, CURVATURE[self.distribution]
        m = moments.recursion(workflow, lambda center, spread, rows: variance + bend * center, variance)
        law = "recursion of second moments with V(theta) quadratic; sum 1/i^2 -> pi^2/6, t (2410.22812)"
        # a probability is bounded
        grows = self.distribution != "bernoulli" and moments.walks(workflow, bend)
        spread = moments.spread(*self._powers(workflow)) if self.distribution == "exponential" else np.nan
        more = {"diverges": grows, "spread": spread}
        out = {
            "test_loss": Prediction(m.center, law, **more),
            "inflation": Prediction(m.center * workflow.rows / variance, law, **more),
        }
        if self.mean:
            out["mean_ratio"] = Prediction(np.ones(workflow.generations), "the average of rows is unbiased")
        alive = self._alive(workflow)
        return out if alive is None else out | {"alive": alive}

    def _powers(self, workflow: Workflow) -> tuple[np.ndarray, np.ndarray]:
        """(E d^4, E d^2) of d = theta_t / theta - 1 for exponential rows, each fit on one source.

        The average of n rows is theta (1 + g), n (1 + g) ~ Gamma(n): E g^k = 1/n, 2/n^2, 3/n^2 + 6/n^3 for k = 2, 3, 4.
        """

        def step(d: np.ndarray, n: int, s: bool) -> np.ndarray:
            d2, d3, d4 = d
            g2, g3, g4 = 1 / n, 2 / n**2, 3 / n**2 + 6 / n**3
            return np.array(
                [
                    d2 + (1 + d2) * g2,
                    d3 + 3 * (2 * d2 + d3) * g2 + (1 + 3 * d2 + d3) * g3,
                    d4
                    + 6 * (d2 + 2 * d3 + d4) * g2
                    + 4 * (3 * d2 + 3 * d3 + d4) * g3
                    + (1 + 6 * d2 + 4 * d3 + d4) * g4,
                ]
            )

        powers_G3 = moments.along_chain(workflow, np.zeros(3), step)
        return powers_G3[:, 2], powers_G3[:, 0]

    def _alive(self, workflow: Workflow) -> Prediction | None:
        """P(theta_t > 0) under replace (2412.17646), exact for both."""
        n, steps = workflow.rows, workflow.generations
        replaces = all(
            len(m.slices) == 1 and m.slices[0].source == m.generation - 1 and m.available == n
            for m in workflow.mixtures
        )
        if not replaces:
            return None
        if self.distribution == "poisson":
            g = np.ones(steps)
            for t in range(1, steps):
                g[t] = -np.expm1(-g[t - 1])
            return Prediction(
                -np.expm1(-n * self.mean * g), "1 - exp(-n theta g_t), g_1 = 1, g_{k+1} = 1 - exp(-g_k)"
            )
        if self.distribution == "bernoulli" and wright_fisher.applies(n, 1):
            positive = (np.arange(n + 1) > 0).astype(float)[:, None]
            found = wright_fisher.expectations(n, np.array([self.mean]), positive, steps)
            return Prediction(found[:, 0, 0], "exact Wright-Fisher chain of the count")
        return None
