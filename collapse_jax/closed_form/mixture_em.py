"""A mixture of two Gaussians with full covariances, refitted by expectation maximisation (EM).

Setting of Shumailov et al. 2305.17493: two components in two dimensions, n = 1000, replace. EM runs as in
scikit-learn's `GaussianMixture` (same stopping rule and floor on the covariances) from a split of the rows at
their mean across the leading principal axis.

Every M-step keeps the first two moments of its rows: the mean of the fitted mixture is their mean and its
covariance theirs (divided by n) plus floor * I. Both therefore obey the exact recursion of a Gaussian with
biased covariance, for any table and n and whether or not EM converged: (1 - 1/n)^t under replace. How that variance
divides into components has no exact law; components also merge.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import logsumexp

from collapse_jax.closed_form import draws, moments
from collapse_jax.closed_form.family import Family, Prediction
from collapse_jax.config import number
from collapse_jax.workflows import Workflow

TINY = 10 * np.finfo(float).eps


class Mixture(NamedTuple):
    """weights [2], means [2, d], factors [2, d, d] lower-triangular with covariance = factor factor^T."""

    weights: jax.Array
    means: jax.Array
    factors: jax.Array


@dataclass(frozen=True)
class MixtureEM(Family):
    """dim: d. separation: distance of the two real centres. deviation: standard deviation of the real components.
    share: weight of the first. floor: added to the diagonal of fitted covariances. tolerance: on the mean
    log-likelihood, where EM stops; steps: where it stops at the latest. test_rows: real rows that are scored.
    """

    dim: int = number(2, 1, 65536)
    separation: float = number(4.0, 0.0)
    deviation: float = number(0.9)
    share: float = number(0.5, 0.0, 1.0)
    floor: float = number(1e-6, 0.0)
    tolerance: float = number(1e-3, 0.0)
    steps: int = number(100, 1)
    test_rows: int = number(500, 1, 1 << 24)

    units: ClassVar = {
        "test_loss": "nats/row",
        "variance_ratio": "ratio",
        "mean_error": "squared units",
        "component_deviation": "units",
        "centre_distance": "units",
        "smaller_weight": "probability",
        "l2_distance": "1/units^d",
    }

    def problems(self) -> Iterator[str]:
        if self.deviation <= 0:
            yield f"deviation={self.deviation:g} must be above 0"
        if self.floor <= 0:
            yield f"floor={self.floor:g} must be above 0, a component may be left with a single row"

    def refuses(self, workflow: Workflow) -> Iterator[str]:
        least = min(m.take for m in workflow.mixtures)
        if least < 2 * (self.dim + 1):
            yield f"rows={least} in a generation is too few for two components; use {2 * (self.dim + 1)} or more"

    def real_mixture(self) -> Mixture:
        """The truth; its centres lie on the first axis, its mean at zero."""
        axis = np.eye(self.dim)[0] * self.separation
        means = np.stack([-(1 - self.share) * axis, self.share * axis])
        factors = np.tile(self.deviation * np.eye(self.dim), (2, 1, 1))
        return Mixture(*map(jnp.asarray, (np.array([self.share, 1 - self.share]), means, factors)))

    @property
    def real_variance(self) -> float:
        """Trace of the covariance of the real rows."""
        return self.dim * self.deviation**2 + self.share * (1 - self.share) * self.separation**2

    def truth(self, key: jax.Array, rows: int) -> dict[str, Any]:
        real = self.real_mixture()
        return {"real": real, "test": self.draw({}, real, key, self.test_rows)}

    def real(self, truth: dict[str, Any], key: jax.Array, rows: int) -> jax.Array:
        return self.draw(truth, truth["real"], key, rows)

    def draw(self, truth: dict[str, Any], params: Mixture, key: jax.Array, rows: int, **_: Any) -> jax.Array:
        of_component, of_noise = jax.random.split(key)
        which = (draws.uniform(of_component, (rows,)) >= params.weights[0]).astype(int)
        noise = draws.normal(of_noise, (rows, self.dim))
        return params.means[which] + jnp.einsum("nij,nj->ni", params.factors[which], noise)

    def fit(self, truth: dict[str, Any], rows: jax.Array, weight: jax.Array) -> Mixture:
        """EM from `split`; one step is an E-step and an M-step, and the last one ends in the M-step."""

        def step(state):
            turn, _, before, mixture = state
            joint = log_joint(mixture, rows)
            each = logsumexp(joint, axis=1)
            mixture = self.maximise(rows, jnp.exp(joint - each[:, None]) * weight[:, None])
            reached = weight @ each / weight.sum()
            return turn + 1, jnp.abs(reached - before) < self.tolerance, reached, mixture

        def unfinished(state):
            return ~state[1] & (state[0] < self.steps)

        start = self.maximise(rows, split(rows, weight) * weight[:, None])
        return jax.lax.while_loop(unfinished, step, (0, jnp.zeros((), bool), -jnp.inf, start))[3]

    def maximise(self, rows: jax.Array, responsibility: jax.Array) -> Mixture:
        """M-step: responsibility [rows, 2], zero in both columns for rows that do not count."""
        count = responsibility.sum(0) + TINY
        means = responsibility.T @ rows / count[:, None]
        away = rows[:, None] - means
        scatter = jnp.einsum("nk,nki,nkj->kij", responsibility, away, away) / count[:, None, None]
        factors = jax.vmap(draws.cholesky)(scatter + self.floor * jnp.eye(self.dim))
        return Mixture(count / count.sum(), means, factors)

    def measure(self, truth: dict[str, Any], params: Mixture) -> dict[str, jax.Array]:
        weights, means, factors = params
        center = weights @ means
        inside = (factors**2).sum((1, 2))
        between = ((means - center) ** 2).sum(1)
        return {
            "test_loss": -logsumexp(log_joint(params, truth["test"]), axis=1).mean(),
            "variance_ratio": weights @ (inside + between) / self.real_variance,
            "mean_error": (center**2).sum(),
            "component_deviation": jnp.sqrt(inside / self.dim).mean(),
            "centre_distance": jnp.linalg.norm(means[0] - means[1]),
            "smaller_weight": weights.min(),
            "l2_distance": overlap(params, params) - 2 * overlap(params, truth["real"])
            + overlap(truth["real"], truth["real"]),
        }  # fmt: skip

    def predict(self, workflow: Workflow) -> dict[str, Prediction]:
        """Any table: variance_ratio, mean_error."""
        floor = self.dim * self.floor
        found = moments.recursion(workflow, lambda center, spread, rows: spread + floor, self.real_variance)
        law = "EM keeps mean and covariance of its rows: recursion of second moments, (1-1/n)^t under replace"
        return {
            "variance_ratio": Prediction(found.drawn / self.real_variance, law),
            "mean_error": Prediction(found.center, law),
        }


def split(rows: jax.Array, weight: jax.Array) -> jax.Array:
    """[rows, 2] of 0 and 1: on which side of the mean along the leading principal axis."""
    away = rows - weight @ rows / weight.sum()
    axis = jnp.linalg.eigh((away * weight[:, None]).T @ away, symmetrize_input=False)[1][:, -1]
    side = (away @ axis > 0).astype(float)
    return jnp.stack([side, 1 - side], 1)


def log_joint(mixture: Mixture, rows: jax.Array) -> jax.Array:
    """log of weight_k N(row; mean_k, covariance_k), [rows, 2]."""

    def one(weight, mean, factor):
        white = solve_triangular(factor, (rows - mean).T, lower=True)
        scale = jnp.log(jnp.diagonal(factor)).sum() + 0.5 * len(mean) * np.log(2 * np.pi)
        return jnp.log(weight) - scale - 0.5 * (white**2).sum(0)

    return jax.vmap(one, out_axes=1)(*mixture)


def overlap(a: Mixture, b: Mixture) -> jax.Array:
    """Integral of the product of two mixtures: sum_kl w_k v_l N(m_k - n_l; 0, S_k + T_l)."""
    covariance = (a.factors @ a.factors.mT)[:, None] + (b.factors @ b.factors.mT)[None]
    away = a.means[:, None] - b.means[None]
    factor = jnp.linalg.cholesky(covariance, symmetrize_input=False)
    white = solve_triangular(factor, away[..., None], lower=True)[..., 0]
    scale = jnp.log(jnp.diagonal(factor, axis1=-2, axis2=-1)).sum(-1) + 0.5 * away.shape[-1] * np.log(
        2 * np.pi
    )
    return (a.weights[:, None] * b.weights * jnp.exp(-scale - 0.5 * (white**2).sum(-1))).sum()
