"""Regression on a fixed share of synthetic labels: more data never removes what another teacher taught.

Dohmatob et al. 2410.04840 ("strong collapse"): real rows are labelled by w*, synthetic ones by w2 with
|w2 - w*|^2 = c^2, all with x ~ N(0, I_d) and label variance sigma^2. Least squares on n1 real and n2 synthetic rows
gives w* + B delta + noise, B = (X1'X1 + X2'X2)^-1 X2'X2, so for n = n1 + n2 -> infinity the error tends to
(n2/n)^2 c^2 and not to zero.

Exact for every n > d + 1: E |w - w*|^2 = sigma^2 d/(n-d-1) + (c^2/d) (a d + b (T - d)), where a = E U_11^2 and
b = E U_12^2 belong to a matrix beta U ~ Beta_d(n2/2, n1/2) and T = E tr G tr G^-1 = d (nd-2)/(n-d-1) to the
Gram matrix G ~ Wishart_d(n), which is independent of U; b follows from E tr W2^2 of a Wishart matrix.
With the model as teacher of the synthetic labels the settings of `regression` (fresh inputs) return.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.closed_form import draws
from collapse_jax.closed_form.family import Family, Prediction
from collapse_jax.config import number
from collapse_jax.workflows import Workflow

Arrays = dict[str, jax.Array]


@dataclass(frozen=True)
class Strong(Family):
    """dim: d. noise: label variance sigma^2. distance: c^2 = |w2 - w*|^2, in a random direction."""

    dim: int = number(10, 1, 65536)
    noise: float = number(1.0, 0.0)
    distance: float = number(1.0, 0.0)

    units: ClassVar = {"test_loss": "squared error", "toward_teacher": "ratio"}
    draws_statistics: ClassVar[bool] = True

    def refuses(self, workflow: Workflow) -> Iterator[str]:
        least = min(m.take for m in workflow.mixtures)
        if least < self.dim + 2:
            yield (
                f"rows={least} in a generation is too few for least squares in dim={self.dim}: its error has no "
                f"expectation below d + 2 = {self.dim + 2}; use more rows"
            )

    def metrics(self, workflow: Workflow) -> tuple[str, ...]:
        return ("test_loss", "toward_teacher") if self.distance else ("test_loss",)

    def truth(self, key: jax.Array, rows: int) -> Arrays:
        direction = draws.normal(key, (self.dim,))
        apart = np.sqrt(self.distance) * direction / jnp.linalg.norm(direction)
        return {"real": jnp.zeros(self.dim), "teacher": apart}

    def real(self, truth: Arrays, key: jax.Array, rows: int) -> Arrays:
        return self._label(truth["real"], key, rows)

    def draw(self, truth: Arrays, params: jax.Array, key: jax.Array, rows: int, **_: Any) -> Arrays:
        """Rows labelled by w2, whatever was fitted."""
        return self._label(truth["teacher"], key, rows)

    def _label(self, weights: jax.Array, key: jax.Array, rows: int) -> Arrays:
        of_inputs, of_noise = jax.random.split(key)
        x = draws.normal(of_inputs, (rows, self.dim))
        return {"x": x, "y": x @ weights + np.sqrt(self.noise) * draws.normal(of_noise, (rows,))}

    def streams(self, workflow: Workflow) -> bool:
        return True

    def statistics(self, truth: Arrays, rows: Arrays, weight: jax.Array) -> Arrays:
        return {
            "gram": (rows["x"] * weight[:, None]).T @ rows["x"],
            "labels": (weight * rows["y"]) @ rows["x"],
        }

    def estimate(self, truth: Arrays, statistics: Arrays) -> jax.Array:
        """Least squares, [d]; w* is the origin."""
        return jnp.linalg.solve(statistics["gram"], statistics["labels"])

    def real_statistics(self, truth: Arrays, key: jax.Array, rows: jax.Array) -> Arrays:
        return self._sums(truth["real"], key, rows)

    def draw_statistics(self, truth: Arrays, params: jax.Array, key: jax.Array, rows: jax.Array) -> Arrays:
        return self._sums(truth["teacher"], key, rows)

    def _sums(self, weights: jax.Array, key: jax.Array, rows: jax.Array) -> Arrays:
        """X'y = X'X w + X'noise, where X'noise ~ N(0, sigma^2 X'X) given X."""
        factor, z = draws.wishart_factor(key, self.dim, rows)
        gram = factor @ factor.T
        return {"gram": gram, "labels": gram @ weights + np.sqrt(self.noise) * factor @ z}

    def measure(self, truth: Arrays, params: jax.Array) -> Arrays:
        """toward_teacher: projection of w - w* on w2 - w*; its mean is the synthetic share n2/n."""
        teacher = truth["teacher"]
        length = (teacher**2).sum()
        toward = (params @ teacher) / jnp.where(length > 0, length, 1.0)
        return {"test_loss": ((params - truth["real"]) ** 2).sum(), "toward_teacher": toward}

    def predict(self, workflow: Workflow) -> dict[str, Prediction]:
        """Any table that is used whole."""
        if any(m.take < m.available for m in workflow.mixtures):
            return {}
        sizes = [(sum(s.rows for s in m.slices if s.source == 0), m.available) for m in workflow.mixtures]
        loss = np.array([self.expected_error(real, total - real) for real, total in sizes])
        share = np.array([1 - real / total for real, total in sizes])
        law = "sigma^2 d/(n-d-1) + c^2 E|B u|^2 -> floor (n2/n)^2 c^2; matrix beta moments (2410.04840)"
        return {
            "test_loss": Prediction(loss, law, diverges=False),
            "toward_teacher": Prediction(share, "E B = (n2/n) I by symmetry"),
        }

    def expected_error(self, real: int, synthetic: int) -> float:
        """E |w - w*|^2 of least squares on so many rows of each kind."""
        d, n = self.dim, real + synthetic
        return self.noise * d / (n - d - 1) + self.distance * shrinkage(d, real, synthetic)

    def floor(self, share: float) -> float:
        """What is left for n -> infinity at a fixed synthetic share: share^2 c^2."""
        return share**2 * self.distance


def shrinkage(dim: int, real: int, synthetic: int) -> float:
    """E |B u|^2 for a unit vector u, B = (W1 + W2)^-1 W2 with W1, W2 Wishart matrices of `real`, `synthetic` rows."""
    d, m, n = dim, synthetic, real + synthetic
    a = m * (m + 2) / (n * (n + 2))
    if d == 1:
        return a
    b = (m * (m + d + 1) - a * n * (n + d + 1)) / (n * (n - 1) * (d - 1))
    trace = d * (n * d - 2) / (n - d - 1)
    return (a * d + b * (trace - d)) / d
