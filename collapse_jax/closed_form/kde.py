"""A Gaussian kernel density estimate, refitted on its own samples: a sample is a kept row plus kernel noise.

Settings of Kazdan et al. 2410.16713: bandwidth h fixed, by Scott's rule n^(-1/(d+4)) or Silverman's
(n (d+2)/4)^(-1/(d+4)), both as scikit-learn's `KernelDensity` has them; `test_loss` is the mean negative
log-likelihood of test rows from the distribution of the training rows.

Expectations of the fitted density itself are exact for every n, because a fit is linear in the rows it keeps
and a draw adds independent noise: with mixture shares s_tk, the second moment per dimension is V_t = sum_k
s_tk V_k + h_t^2, so sigma^2 + t h^2 (replace) and sigma^2 + h^2 H_t (accumulate, subsampled or not: it grows
without bound, like log t), and the characteristic function is phi_t = exp(-(h_t w)^2 / 2) sum_k s_tk phi_k.

scikit-learn's default tree traversal loses digits at test rows far from all kernels, 0.1 nats in the mean on the
swiss roll at h = 0.5, n = 100; losses here are the exact ones (those of `leaf_size` above n).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.closed_form import draws, plan, shapes
from collapse_jax.closed_form.family import Family, Prediction
from collapse_jax.config import choice, number
from collapse_jax.workflows import Workflow

Arrays = dict[str, jax.Array]
KERNELS_AT_ONCE = 1000  # kernels a seed holds in memory while it is scored, unless it has more rows


@dataclass(frozen=True)
class KernelDensity(Family):
    """data: blobs, circles, moons or swiss_roll. noise: standard deviation around the curves (blobs have 1).
    rule: how h is chosen; bandwidth: h of rule "fixed". test_rows: rows that are scored.
    frequency: where the characteristic function is taken.
    published_blobs_bug: score blobs on test rows around other centres than the training rows, as the
        published code did by drawing centres twice; its blobs curves show this and not the workflow.
    """

    data: str = choice("circles", tuple(shapes.DIMENSIONS))
    noise: float = number(0.05, 0.0)
    rule: str = choice("fixed", ("fixed", "scott", "silverman"))
    bandwidth: float = number(0.5)
    test_rows: int = number(500, 1, 1 << 24)
    frequency: float = number(1.0, 0.0)
    published_blobs_bug: bool = False

    units: ClassVar = {"test_loss": "nats/row", "second_moment": "squared units", "characteristic": "ratio"}
    resamples: ClassVar[bool] = True

    def problems(self) -> Iterator[str]:
        if self.bandwidth <= 0:
            yield f"bandwidth={self.bandwidth:g} must be above 0"
        if self.published_blobs_bug and self.data != "blobs":
            yield f"published_blobs_bug is about data='blobs'; turn it off for {self.data!r}"

    @property
    def dim(self) -> int:
        return shapes.DIMENSIONS[self.data]

    @property
    def spread(self) -> float:
        """Standard deviation of the noise on every coordinate."""
        return 1.0 if self.data == "blobs" else self.noise

    def width(self, rows: Any) -> Any:
        """h of a fit on `rows` rows."""
        if self.rule == "fixed":
            return self.bandwidth
        count = rows if self.rule == "scott" else rows * (self.dim + 2) / 4
        return count ** (-1 / (self.dim + 4))

    def truth(self, key: jax.Array, rows: int) -> Arrays:
        of_centers, of_test, of_others = jax.random.split(key, 3)
        blobs = shapes.centers(of_centers)
        tested = shapes.centers(of_others) if self.published_blobs_bug else blobs
        return {
            "blobs": blobs,
            "center": jnp.asarray(shapes.center(self.data, blobs)),
            "test": shapes.sample(self.data, of_test, self.test_rows, self.spread, tested),
            "rows": jnp.asarray(rows, float),
        }

    def real(self, truth: Arrays, key: jax.Array, rows: int) -> jax.Array:
        return shapes.sample(self.data, key, rows, self.spread, truth["blobs"])

    def fit(self, truth: Arrays, rows: jax.Array, weight: jax.Array) -> Arrays:
        count = weight.sum()
        return self._fitted(self._statistics(truth, rows, weight, self.width(count)), self.width(count))

    def draw(self, truth: Arrays, params: Arrays, key: jax.Array, rows: int, **pick: Any) -> jax.Array:
        of_row, of_noise = jax.random.split(key)
        return pick["pick"](of_row, rows) + params["width"] * draws.normal(of_noise, (rows, self.dim))

    def streams(self, workflow: Workflow) -> bool:
        """Kernels at the test rows add up as long as every fit has one and the same bandwidth."""
        return self.rule == "fixed" or all(m.take == workflow.rows for m in workflow.mixtures)

    def statistics(self, truth: Arrays, rows: jax.Array, weight: jax.Array) -> Arrays:
        return self._statistics(truth, rows, weight, self.width(truth["rows"]))

    def _statistics(self, truth: Arrays, rows: jax.Array, weight: jax.Array, width: Any) -> Arrays:
        away = rows - truth["center"]
        return {
            "count": weight.sum(),
            "kernels": log_kernels(truth["test"], rows, weight, width),
            "squares": weight @ (away**2).mean(1),
            "waves": weight @ jnp.cos(self.frequency * away).mean(1),
        }

    def merge(self, truth: Arrays, a: Arrays, b: Arrays) -> Arrays:
        """Sums of kernels are kept as logarithms, which zero rows have at minus infinity."""
        logs = [jnp.where(x["count"] > 0, x["kernels"], -jnp.inf) for x in (a, b)]
        return {name: a[name] + b[name] for name in a} | {"kernels": jnp.logaddexp(*logs)}

    def estimate(self, truth: Arrays, statistics: Arrays) -> Arrays:
        return self._fitted(statistics, self.width(truth["rows"]))

    def _fitted(self, statistics: Arrays, width: Any) -> Arrays:
        count = statistics["count"]
        scale = self.dim * jnp.log(width * np.sqrt(2 * np.pi))
        return {
            "width": jnp.asarray(width, float),
            "log_density": statistics["kernels"] - jnp.log(count) - scale,
            "squares": statistics["squares"] / count + width**2,
            "waves": statistics["waves"] / count * jnp.exp(-0.5 * (width * self.frequency) ** 2),
        }

    def measure(self, truth: Arrays, params: Arrays) -> Arrays:
        return {
            "test_loss": -params["log_density"].mean(),
            "second_moment": params["squares"],
            "characteristic": params["waves"],
        }

    def predict(self, workflow: Workflow) -> dict[str, Prediction]:
        """Any table: second_moment and characteristic. Real rows that arrive late on evenly placed curves
        have grids of their own, for which the first one's moments stand to leading order.
        """
        shares = workflow.table()
        real = [b for b in plan.blocks(workflow) if b.source == 0]
        first, late = sum(b.rows for b in real if b.born == 0), any(b.born for b in real)
        squares = [shapes.second_moment(self.data, first, self.spread)]
        waves = [shapes.characteristic(self.data, first, self.spread, self.frequency)]
        for m, share in zip(workflow.mixtures, shares / shares.sum(1, keepdims=True), strict=True):
            width, share = self.width(m.take), share[: m.generation]
            squares.append(float(share @ squares) + width**2)
            waves.append(float(share @ waves) * float(np.exp(-0.5 * (width * self.frequency) ** 2)))
        exact = not late or self.data in ("blobs", "swiss_roll")
        law = "V_t = sum_k s_tk V_k + h^2: sigma^2 + t h^2 (replace), sigma^2 + h^2 H_t (accumulate)"
        wave = "phi_t = exp(-(h w)^2/2) sum_k s_tk phi_k"
        return {
            "second_moment": Prediction(np.array(squares[1:]), law, exact),
            "characteristic": Prediction(np.array(waves[1:]), wave, exact),
        }


def log_kernels(points: jax.Array, rows: jax.Array, weight: jax.Array, width: Any) -> jax.Array:
    """log of sum_i weight_i exp(-|x - row_i|^2 / (2 width^2)) at each point, [points]; -inf without rows.

    Exponents and sums are f64; the exponential of what is left after the largest exponent is taken in f32,
    which is twice as fast and moves a mean log-density by less than 1e-7.
    """
    scale = -0.5 / jnp.asarray(width, float) ** 2

    def at(point: jax.Array) -> jax.Array:
        exponents = scale * sum((rows[:, j] - point[j]) ** 2 for j in range(rows.shape[1]))
        exponents = jnp.where(weight > 0, exponents, -jnp.inf)
        top = exponents.max()
        shift = jnp.where(top > -jnp.inf, top, 0.0)
        kernels = jnp.exp((exponents - shift).astype(jnp.float32))
        return shift + jnp.log(kernels.sum(dtype=float))

    return jax.lax.map(at, points, batch_size=max(1, KERNELS_AT_ONCE // len(rows)))
