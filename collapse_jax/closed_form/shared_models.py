"""A pool of K models that learn from private data, public data and each other, in its linear form.

Vu, Reeves & Wenger 2505.21677: model k of generation t is fitted with weight (1-alpha) beta on private real rows
of its own task, (1-alpha)(1-beta) on public real rows shared by all, and alpha/K on the samples of each of the K
models before it. Here a fit is the weighted mean of rows with known variance, so theta_t = P_t [real means] +
Q_t theta_{t-1} + noise as in the paper. Private tasks are centred at theta*_k ~ N(0, separation^2 I), the
public one at zero.

Everything is linear in independent normals: the truths, the noise of each block of real rows and of each
generation's samples. `predict` carries the coefficients of every model on all of them, which makes the losses
exact for any table. More weight on each other's samples makes the models alike (`disagreement` falls), better
at each other's tasks and worse at their own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.closed_form import draws, plan
from collapse_jax.closed_form.family import Family, Prediction
from collapse_jax.config import number
from collapse_jax.workflows import Workflow

Arrays = dict[str, jax.Array]
LARGEST = 20_000  # independent normals that a prediction follows


@dataclass(frozen=True)
class SharedModels(Family):
    """models: K. dim: d. alpha: weight of synthetic rows. beta: private share of the real weight.
    separation: standard deviation of the tasks around the public one. noise: variance of a row, per dimension.
    """

    models: int = number(5, 1, 65536)
    dim: int = number(10, 1, 65536)
    alpha: float = number(0.5, 0.0, 1.0)
    beta: float = number(0.5, 0.0, 1.0)
    separation: float = number(1.0, 0.0)
    noise: float = number(1.0, 0.0)

    units: ClassVar = {
        "test_loss": "squared error",
        "others_loss": "squared error",
        "public_loss": "squared error",
        "disagreement": "squared units",
    }
    draws_statistics: ClassVar[bool] = True

    def metrics(self, workflow: Workflow) -> tuple[str, ...]:
        return tuple(m for m in self.units if self.models > 1 or m not in ("others_loss", "disagreement"))

    def truth(self, key: jax.Array, rows: int) -> jax.Array:
        """theta* [K + 1, d]; the last one is public."""
        private = self.separation * draws.normal(key, (self.models, self.dim))
        return jnp.concatenate([private, jnp.zeros((1, self.dim))])

    def real(self, truth: jax.Array, key: jax.Array, rows: int) -> Arrays:
        """A row holds one draw of every task, [rows, K + 1, d], and room for K synthetic ones."""
        x = truth + np.sqrt(self.noise) * draws.normal(key, (rows, *truth.shape))
        return {"real": x, "made": jnp.zeros((rows, self.models, self.dim)), "is_real": jnp.ones(rows)}

    def draw(self, truth: jax.Array, params: jax.Array, key: jax.Array, rows: int, **_: Any) -> Arrays:
        """A row holds one sample of every model."""
        x = params + np.sqrt(self.noise) * draws.normal(key, (rows, *params.shape))
        return {"real": jnp.zeros((rows, *truth.shape)), "made": x, "is_real": jnp.zeros(rows)}

    def streams(self, workflow: Workflow) -> bool:
        return True

    def statistics(self, truth: jax.Array, rows: Arrays, weight: jax.Array) -> Arrays:
        real = weight * rows["is_real"]
        return {
            "real": jnp.einsum("n,nkd->kd", real, rows["real"]),
            "made": jnp.einsum("n,nkd->kd", weight - real, rows["made"]),
            "counts": jnp.stack([real.sum(), weight.sum() - real.sum()]),
        }

    def estimate(self, truth: jax.Array, statistics: Arrays) -> jax.Array:
        """theta [K, d]. Weights of kinds of rows that are absent go to the others."""
        counts = statistics["counts"]
        real = statistics["real"] / jnp.maximum(counts[0], 1)
        made = statistics["made"] / jnp.maximum(counts[1], 1)
        alpha = jnp.where(counts[1] == 0, 0.0, jnp.where(counts[0] == 0, 1.0, self.alpha))
        mixed = self.beta * real[:-1] + (1 - self.beta) * real[-1]
        return (1 - alpha) * mixed + alpha * made.mean(0)

    def real_statistics(self, truth: jax.Array, key: jax.Array, rows: jax.Array) -> Arrays:
        total = rows * truth + jnp.sqrt(rows * self.noise) * draws.normal(key, truth.shape)
        made = jnp.zeros((self.models, self.dim))
        return {"real": total, "made": made, "counts": jnp.stack([rows, jnp.zeros_like(rows)])}

    def draw_statistics(self, truth: jax.Array, params: jax.Array, key: jax.Array, rows: jax.Array) -> Arrays:
        total = rows * params + jnp.sqrt(rows * self.noise) * draws.normal(key, params.shape)
        return {
            "real": jnp.zeros_like(truth),
            "made": total,
            "counts": jnp.stack([jnp.zeros_like(rows), rows]),
        }

    def measure(self, truth: jax.Array, params: jax.Array) -> Arrays:
        """Squared distances |theta_k - theta*_j|^2: to the own task, to the other tasks, to the public one, and
        of the models to their mean, averaged over models.
        """
        tasks, k = truth[:-1], self.models
        apart = ((params[:, None] - tasks) ** 2).sum(-1)
        own = jnp.trace(apart) / k
        return {
            "test_loss": own,
            "others_loss": (apart.sum() / k - own) / max(k - 1, 1),
            "public_loss": ((params - truth[-1]) ** 2).sum() / k,
            "disagreement": ((params - params.mean(0)) ** 2).sum() / k,
        }

    def predict(self, workflow: Workflow) -> dict[str, Prediction]:
        """Any table that is used whole, while the independent normals stay below `LARGEST`."""
        if any(m.take < m.available for m in workflow.mixtures):
            return {}
        blocks = plan.blocks(workflow)
        if len(blocks) * (self.models + 1) > LARGEST:
            return {}
        variance, theta = self._coefficients(workflow, blocks)
        k = self.models
        tasks = np.eye(k, theta.shape[-1])
        rows: dict[str, list[float]] = {name: [] for name in self.units}
        for fitted in theta:  # [K, normals]

            def squared(x: np.ndarray) -> float:
                return self.dim * float((x**2 @ variance).mean())

            other = [squared(fitted - np.roll(tasks, -shift, 0)) for shift in range(1, k)]
            rows["test_loss"].append(squared(fitted - tasks))
            rows["others_loss"].append(float(np.mean(other)) if other else 0.0)
            rows["public_loss"].append(squared(fitted))
            rows["disagreement"].append(squared(fitted - fitted.mean(0)))
        law = "exact: theta_t linear in independent normals, theta_t = P_t[real means] + Q_t theta_{t-1} + noise"
        return {name: Prediction(np.array(values), law) for name, values in rows.items()}

    def _coefficients(self, workflow: Workflow, blocks: list[plan.Block]) -> tuple[np.ndarray, np.ndarray]:
        """Variances [normals] of the independent normals, and theta on them, [generations, K, normals].

        The normals are the K tasks, then for every block of rows the noise of its K + 1 (real) or K means.
        """
        k = self.models
        sizes = [k + 1 if b.source == 0 else k for b in blocks]
        starts = k + np.cumsum([0, *sizes])
        variance = np.concatenate(
            [np.full(k, self.separation**2)]
            + [np.full(size, self.noise / b.rows) for b, size in zip(blocks, sizes, strict=True)]
        )
        theta = np.zeros((workflow.generations, k, len(variance)))
        for t in range(workflow.generations):
            used = [i for i, b in enumerate(blocks) if b.uses[t]]
            total = {
                kind: sum(blocks[i].rows for i in used if (blocks[i].source > 0) == kind)
                for kind in (False, True)
            }
            alpha = 0.0 if not total[True] else 1.0 if not total[False] else self.alpha
            for i in used:
                b, normals = blocks[i], slice(starts[i], starts[i + 1])
                if b.source:
                    share = alpha * b.rows / total[True]
                    theta[t] += share * theta[b.source - 1].mean(0)
                    theta[t, :, normals] += share / k
                else:
                    share = (1 - alpha) * b.rows / total[False]
                    theta[t, :, :k] += share * self.beta * np.eye(k)
                    theta[t, :, normals] += share * np.hstack(
                        [self.beta * np.eye(k), np.full((k, 1), 1 - self.beta)]
                    )
        return variance, theta

    def problems(self) -> Iterator[str]:
        if self.noise == 0 and self.separation == 0:
            yield "noise and separation are both 0, so that nothing differs; raise one"
