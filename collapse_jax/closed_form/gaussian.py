"""A Gaussian in d dimensions fitted by its sample mean and covariance, generation after generation.

Settings and laws of Kazdan et al. 2410.16713 (biased covariance), Shumailov et al. 2305.17493 (1-D),
Alemohammad et al. 2307.01850 (MAD: unbiased, samples narrowed by lambda), Suresh et al. 2412.17646 and
Bertrand et al. 2310.00429 (standard deviation). The real distribution is N(0, variance * I).

Biased and unbiased covariance collapse differently. Divided by n the fitted variance decays in the mean,
and the mean error saturates: E variance + E squared mean error = variance for ever (law of total
variance, replace, accumulate and accumulate_subsample). Divided by n - 1 its mean stays while almost
every chain goes to zero, and the mean error grows without bound.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from scipy.special import digamma, gammaln

from collapse_jax.closed_form import draws, moments
from collapse_jax.closed_form.family import Family, Prediction
from collapse_jax.config import choice, number
from collapse_jax.workflows import Workflow


class Fitted(NamedTuple):
    """mean [d]; factor [d, d] lower-triangular with covariance = factor factor^T."""

    mean: jax.Array
    factor: jax.Array


class Sums(NamedTuple):
    """Rows reduced: count, mean [d], factor [d, d] of the scatter matrix about the mean."""

    count: jax.Array
    mean: jax.Array
    factor: jax.Array


@dataclass(frozen=True)
class Gaussian(Family):
    """dim: d. variance: of the real data, per dimension. covariance: "biased" divides by n, "unbiased" by
    n - 1. narrow: MAD's lambda, the factor on the covariance of every synthetic draw.
    """

    dim: int = number(1, 1, 65536)
    variance: float = number(1.0)
    covariance: str = choice("biased", ("biased", "unbiased"))
    narrow: float = number(1.0, 0.0)

    units: ClassVar = {
        "variance_ratio": "ratio",
        "mean_error": "squared units",
        "log_variance": "nats",
        "std_ratio": "ratio",
        "log_determinant": "nats",
        "determinant_ratio": "ratio",
        "wasserstein2": "squared units",
        "test_loss": "nats/row",
    }
    signed: ClassVar = ("log_variance", "log_determinant")
    draws_statistics: ClassVar[bool] = True

    def problems(self) -> Iterator[str]:
        if self.variance <= 0:
            yield f"variance={self.variance:g} must be above 0"

    @property
    def lost(self) -> int:
        """Degrees of freedom that the divisor gives up."""
        return 0 if self.covariance == "biased" else 1

    def refuses(self, workflow: Workflow) -> Iterator[str]:
        least = min(m.take for m in workflow.mixtures)
        if least < 2:
            yield f"rows={least} in a generation is too few for a covariance; use at least 2"

    def definite(self, workflow: Workflow) -> bool:
        """Whether every fit has full rank: more rows than dimensions in every mixture, and draws that spread."""
        return min(m.take for m in workflow.mixtures) > self.dim and self.narrow > 0

    def metrics(self, workflow: Workflow) -> tuple[str, ...]:
        names = ("variance_ratio", "mean_error")
        if self.definite(workflow):
            names += ("log_determinant", "test_loss")
        return (*names, "std_ratio", "wasserstein2") if self.dim == 1 else names

    def truth(self, key: jax.Array, rows: int) -> jax.Array:
        return jnp.sqrt(self.variance)

    def real(self, truth: jax.Array, key: jax.Array, rows: int) -> jax.Array:
        return truth * draws.normal(key, (rows, self.dim))

    def draw(self, truth: jax.Array, params: Fitted, key: jax.Array, rows: int, **_: Any) -> jax.Array:
        return params.mean + np.sqrt(self.narrow) * draws.normal(key, (rows, self.dim)) @ params.factor.T

    def streams(self, workflow: Workflow) -> bool:
        return True

    def statistics(self, truth: jax.Array, rows: jax.Array, weight: jax.Array) -> Sums:
        count = weight.sum()
        mean = weight @ rows / jnp.maximum(count, 1)
        away = (rows - mean) * weight[:, None]
        return Sums(count, mean, draws.cholesky(away.T @ away))

    def merge(self, truth: jax.Array, a: Sums, b: Sums) -> Sums:
        """Chan, Golub & LeVeque 1983: nothing is subtracted, so tiny variances keep their digits."""
        count = a.count + b.count
        safe = jnp.maximum(count, 1)
        apart = b.mean - a.mean
        scatter = (
            a.factor @ a.factor.T
            + b.factor @ b.factor.T
            + a.count * b.count / safe * apart[:, None] * apart[None, :]
        )
        return Sums(count, a.mean + b.count / safe * apart, draws.cholesky(scatter))

    def estimate(self, truth: jax.Array, statistics: Sums) -> Fitted:
        return Fitted(statistics.mean, statistics.factor / jnp.sqrt(statistics.count - self.lost))

    def real_statistics(self, truth: jax.Array, key: jax.Array, rows: jax.Array) -> Sums:
        return self._sums(jnp.zeros(self.dim), truth * jnp.eye(self.dim), key, rows)

    def draw_statistics(self, truth: jax.Array, params: Fitted, key: jax.Array, rows: jax.Array) -> Sums:
        return self._sums(params.mean, np.sqrt(self.narrow) * params.factor, key, rows)

    def _sums(self, mean: jax.Array, factor: jax.Array, key: jax.Array, rows: jax.Array) -> Sums:
        """Mean ~ N(mean, Sigma / rows), scatter ~ Wishart(Sigma, rows - 1), independent (Cochran)."""
        scatter, z = draws.wishart_factor(key, self.dim, rows - 1)
        return Sums(rows, mean + factor @ z / jnp.sqrt(jnp.maximum(rows, 1)), factor @ scatter)

    def measure(self, truth: jax.Array, params: Fitted) -> dict[str, jax.Array]:
        """Against the real N(0, truth^2 I); `test_loss` is the exact cross-entropy of real rows."""
        mean, factor, d = params.mean, params.factor, self.dim
        scaled = factor / truth
        log_det = 2 * jnp.log(jnp.abs(jnp.diagonal(scaled))).sum()
        white = solve_triangular(scaled, jnp.concatenate([jnp.eye(d), mean[:, None] / truth], 1), lower=True)
        spread, error = (scaled**2).sum(), (mean**2).sum()
        singular = jnp.abs(scaled[0, 0])[None] if d == 1 else jnp.linalg.svd(scaled, compute_uv=False)
        return {
            "variance_ratio": spread / d,
            "mean_error": error,
            "log_variance": jnp.log(spread / d),
            "std_ratio": jnp.sqrt(spread / d),
            "log_determinant": log_det,
            "determinant_ratio": jnp.exp(log_det),
            "wasserstein2": error + truth**2 * ((singular - 1) ** 2).sum(),
            "test_loss": 0.5 * (d * jnp.log(2 * jnp.pi * truth**2) + log_det + (white**2).sum()),
        }

    def predict(self, workflow: Workflow) -> dict[str, Prediction]:
        """Any table: variance_ratio, mean_error. Each fit on one source, full rank: the rest."""
        d, lost, narrow = self.dim, self.lost, self.narrow
        # Variances of a draw; the fitted one is before the narrowing.
        m = moments.recursion(workflow, lambda center, spread, rows: narrow * spread * rows / (rows - lost))
        rows = np.array([x.take for x in workflow.mixtures], float)
        fitted = m.spread * rows / (rows - lost)
        error = d * self.variance * m.center
        fourth_G5 = self._fourth(workflow)
        variances, errors = (moments.spread(fourth_G5[:, i], d * x) for i, x in ((3, fitted), (0, m.center)))
        out = {
            "variance_ratio": Prediction(
                fitted,
                "recursion of second moments over the table (2410.16713: (1-1/n)^t, "
                "prod 1-1/(n i^2); subset without replacement)",
                spread=variances,
            ),
            "mean_error": Prediction(
                error, "recursion of second moments over the table; d * variance * center", spread=errors
            ),
        }
        if self.definite(workflow):
            out |= self._chain_laws(workflow)
        if d == 1:
            out |= self._one_dimension(workflow, fitted, error, fourth_G5)
        return out

    def _fourth(self, workflow: Workflow) -> np.ndarray:
        """[generations, 5]: E |mu|^4, |mu|^2 tr S, mu' S mu, (tr S)^2, tr S^2 of fits on one source, variance 1.

        mu ~ N(mu, S / n) and (n - lost) S ~ Wishart(S, n - 1) independently.
        """

        def step(v: np.ndarray, n: int, s: bool) -> np.ndarray:
            by = self.narrow if s else 1.0
            p, q, r, a, b = v * [1, by, by, by**2, by**2]
            m, k = n - 1, n - self.lost
            return np.array(
                [
                    p + (2 * q + 4 * r) / n + (a + 2 * b) / n**2,
                    m / k * (q + a / n),
                    m / k * (r + b / n),
                    (m * m * a + 2 * m * b) / k**2,
                    (m * a + m * (m + 1) * b) / k**2,
                ]
            )

        return moments.along_chain(workflow, np.array([0.0, 0.0, 0.0, self.dim**2, self.dim]), step)

    def _walks(self, workflow: Workflow) -> bool | None:
        """Whether the mean error grows for ever: where the variance it adds up does not shrink."""
        n, lost = workflow.rows, self.lost
        if workflow.arm.workflow == "replace":
            return self.narrow * (n - 1) / (n - lost) >= 1
        if (
            workflow.arm.workflow == "replace_multiple"
        ):  # biased the variance falls as t^(-1/n): sum t^(-1-1/n)
            return self.narrow > 1 or (self.narrow == 1 and lost == 1)
        return None

    def _chain_laws(self, workflow: Workflow) -> dict[str, Prediction]:
        """log det W, E det W and E W^-1 of a Wishart matrix with rows - 1 degrees of freedom."""
        d, lost, narrow = self.dim, self.lost, self.narrow
        i = np.arange(1, d + 1)

        def factor(synthetic: bool) -> float:
            return narrow if synthetic else 1.0

        log_det = moments.along_chain(
            workflow,
            0.0,
            lambda v, n, s: (
                v + d * np.log(factor(s)) + float(np.sum(digamma((n - i) / 2) + np.log(2 / (n - lost))))
            ),
        )
        det = moments.along_chain(
            workflow, 1.0, lambda v, n, s: v * factor(s) ** d * float(np.prod((n - i) / (n - lost)))
        )

        def inverse(v: float, n: int, s: bool) -> float:
            return v / factor(s) * (n - lost) / (n - d - 2) if n > d + 2 else np.nan

        def distance(v: float, n: int, s: bool) -> float:
            return (v / factor(s) + d / n) * (n - lost) / (n - d - 2) if n > d + 2 else np.nan

        trace, off = (
            moments.along_chain(workflow, float(d), inverse),
            moments.along_chain(workflow, 0.0, distance),
        )

        def squares(v: float, n: int, s: bool) -> float:
            """E X^2 / (E X)^2 of 1 / chi^2 with n - d degrees of freedom: the inverse in one direction."""
            return v * (n - d - 2) / (n - d - 4) if n > d + 4 else np.inf

        def determinants(v: float, n: int, s: bool) -> float:
            return v * float(np.prod((n - i + 2) / (n - i)))

        one = np.ones(workflow.generations)
        inverses, volumes = (
            moments.spread(moments.along_chain(workflow, 1.0, f), one) for f in (squares, determinants)
        )
        loss = 0.5 * (d * np.log(2 * np.pi * self.variance) + log_det + trace + off)
        with np.errstate(invalid="ignore", divide="ignore"):  # infinity over infinity: nobody knows
            relative = 0.5 * (trace + off) * inverses / np.abs(loss)
        return {
            "log_determinant": Prediction(
                log_det, "sum of psi((n-i)/2) + ln(2/(n-lost)) over i <= d and fits"
            ),
            "determinant_ratio": Prediction(
                det, "product of (n-i)/(n-lost) over i <= d and fits", spread=volumes
            ),
            "test_loss": Prediction(
                loss,
                "log det, E Sigma^-1 = (n-lost)/(n-d-2) a fit, and the mean in its metric",
                diverges=True if workflow.arm.workflow in ("replace", "replace_multiple") else None,
                spread=relative,
            ),
        }

    def _one_dimension(
        self, workflow: Workflow, fitted: np.ndarray, error: np.ndarray, fourth_G5: np.ndarray
    ) -> dict[str, Prediction]:
        """E sigma = alpha^t (2412.17646, 2310.00429), E ln sigma^2, W2^2 = mu^2 + (sigma - 1)^2."""

        def power(k: int) -> np.ndarray:
            """E sigma^k: the k-th moment of a chi variable with n - 1 degrees of freedom, fit by fit."""

            def step(v: float, n: int, s: bool) -> float:
                root = (2 / (n - self.lost)) ** (k / 2) * np.exp(
                    gammaln((n - 1 + k) / 2) - gammaln((n - 1) / 2)
                )
                return v * root * (self.narrow ** (k / 2) if s else 1.0)

            return moments.along_chain(workflow, 1.0, step)

        std = power(1)
        laws = self._chain_laws(workflow) if self.definite(workflow) else {}
        log = {"log_variance": laws["log_determinant"]} if laws else {}
        distance = error + self.variance * (fitted - 2 * std + 1)
        errors, squares = fourth_G5[:, 0], fourth_G5[:, 3]
        with np.errstate(invalid="ignore"):
            stds = np.where(np.isinf(squares), np.inf, squares - 4 * power(3) + 6 * fitted - 4 * std + 1)
        at_most = self.variance * (np.sqrt(errors) + np.sqrt(np.maximum(stds, 0)))
        with np.errstate(invalid="ignore", divide="ignore"):  # a distance of 0 has no relative spread
            relative = at_most / distance
        return log | {
            "std_ratio": Prediction(
                std,
                "alpha^t, alpha = sqrt(2/(n-lost)) Gamma(n/2)/Gamma((n-1)/2)",
                spread=moments.spread(fitted, std),
            ),
            "wasserstein2": Prediction(
                distance,
                "E mu^2 + E (sigma - sigma_0)^2 from variance_ratio, mean_error, std_ratio",
                diverges=self._walks(workflow),
                spread=relative,
            ),
        }
