"""Linear regression whose labels are made by the previous fit: OLS and ridge.

Inputs x ~ N(0, I_d), labels y = x w + noise; generation t relabels inputs with its own weights
(Gerstgrasser et al. 2404.01413; Kazdan et al. 2410.16713; Dohmatob et al. 2402.07712). With
`design="same"` every generation relabels the n inputs of the real data, which is the setting of the
theory and of the published code; with "fresh" each has inputs of its own. `test_loss` is the noiseless
test error |w_t - w*|^2.

The fit needs X^T X and X^T y only. On one design the Gram matrix is the same for all, so in its
eigenbasis every step is elementwise in d; on fresh designs it is a Wishart matrix, drawn directly.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.closed_form import draws, moments
from collapse_jax.closed_form.family import Family, Prediction
from collapse_jax.config import choice, number
from collapse_jax.workflows import Mixture, Workflow

Arrays = dict[str, jax.Array]


@dataclass(frozen=True)
class Regression(Family):
    """dim: d. noise: label variance sigma^2. ridge: penalty added to X^T X (0: least squares of minimum
    norm). design: inputs of a generation, "same" or "fresh". signal: variance of the entries of w*.
    """

    dim: int = number(10, 1, 65536)
    noise: float = number(1.0, 0.0)
    ridge: float = number(0.0, 0.0)
    design: str = choice("same", ("same", "fresh"))
    signal: float = number(1.0, 0.0)

    units: ClassVar = {"test_loss": "squared error", "weight_norm": "squared units"}
    draws_statistics: ClassVar[bool] = True

    @property
    def numbered(self) -> bool:  # type: ignore[override]
        """On one design real row i, also one that comes late, has input i modulo n."""
        return self.design == "same"

    def refuses(self, workflow: Workflow) -> Iterator[str]:
        least = min(self._inputs(workflow, m) for m in workflow.mixtures)
        if self.ridge == 0 and least < self.dim + 2:
            yield (
                f"rows={least} of different inputs in a generation are too few for least squares in "
                f"dim={self.dim}: no error is expected below d + 2 = {self.dim + 2}; use more rows or ridge above 0"
            )

    def _inputs(self, workflow: Workflow, mixture: Mixture) -> int:
        """How many different inputs a generation is fitted on, at least d + 2 or all."""
        n = workflow.rows
        longest = max(min(s.rows, n) for s in mixture.slices)
        if self.design == "fresh" or mixture.take < mixture.available or longest >= self.dim + 2:
            return mixture.take
        return len({(s.start + i) % n for s in mixture.slices for i in range(s.rows)})

    def truth(self, key: jax.Array, rows: int) -> Arrays:
        of_weights, of_inputs = jax.random.split(key)
        out = {"weights": np.sqrt(self.signal) * draws.normal(of_weights, (self.dim,))}
        if self.design == "same":
            out["x"] = draws.normal(of_inputs, (rows, self.dim))
            out["gram"], out["basis"] = jnp.linalg.eigh(out["x"].T @ out["x"], symmetrize_input=False)
        return out

    def real(self, truth: Arrays, key: jax.Array, rows: int, start: Any = 0) -> Arrays:
        return self._labelled(truth, truth["weights"], key, rows, start)

    def draw(self, truth: Arrays, params: jax.Array, key: jax.Array, rows: int, **_: Any) -> Arrays:
        return self._labelled(truth, params, key, rows)

    def _labelled(
        self, truth: Arrays, params: jax.Array, key: jax.Array, rows: int, start: Any = 0
    ) -> Arrays:
        """Rows of labels; on one design row i carries the index of its input, i modulo n."""
        of_inputs, of_noise = jax.random.split(key)
        noise = np.sqrt(self.noise) * draws.normal(of_noise, (rows,))
        if self.design == "same":
            index = (start + jnp.arange(rows)) % len(truth["x"])
            return {"input": index, "y": truth["x"][index] @ params + noise}
        x = draws.normal(of_inputs, (rows, self.dim))
        return {"x": x, "y": x @ params + noise}

    def fit(self, truth: Arrays, rows: Arrays, weight: jax.Array) -> jax.Array:
        """Least squares of the rows themselves, [d]: the Moore-Penrose solution when they are few."""
        x = truth["x"][rows["input"]] if self.design == "same" else rows["x"]
        gram = (x * weight[:, None]).T @ x + self.ridge * jnp.eye(self.dim)
        labels = (weight * rows["y"]) @ x
        if self.ridge or len(weight) >= 4 * self.dim:
            return _solve(gram, labels)
        values, basis = jnp.linalg.eigh(gram, symmetrize_input=False)
        good = values > 1e-12 * values[-1]
        return basis @ (jnp.where(good, 1 / jnp.where(good, values, 1.0), 0.0) * (labels @ basis))

    def streams(self, workflow: Workflow) -> bool:
        """On one design only whole copies of it have its Gram matrix."""
        return self.design == "fresh" or _whole_copies(workflow)

    def statistics(self, truth: Arrays, rows: Arrays, weight: jax.Array) -> Arrays:
        if self.design == "same":
            copies = weight.sum() / len(truth["x"])
            return {
                "copies": copies,
                "labels": (weight * rows["y"]) @ truth["x"][rows["input"]] @ truth["basis"],
            }
        return {
            "gram": (rows["x"] * weight[:, None]).T @ rows["x"],
            "labels": (weight * rows["y"]) @ rows["x"],
        }

    def estimate(self, truth: Arrays, statistics: Arrays) -> jax.Array:
        if self.design == "same":
            return truth["basis"] @ (
                statistics["labels"] / (statistics["copies"] * truth["gram"] + self.ridge)
            )
        return _solve(statistics["gram"] + self.ridge * jnp.eye(self.dim), statistics["labels"])

    def real_statistics(self, truth: Arrays, key: jax.Array, rows: jax.Array) -> Arrays:
        return self.draw_statistics(truth, truth["weights"], key, rows)

    def draw_statistics(self, truth: Arrays, params: jax.Array, key: jax.Array, rows: jax.Array) -> Arrays:
        """X^T y = X^T X w + X^T noise, where X^T noise ~ N(0, noise X^T X) given X."""
        sigma = np.sqrt(self.noise)
        if self.design == "same":
            copies = rows / len(truth["x"])
            gram = copies * truth["gram"]
            z = draws.normal(key, (self.dim,))
            return {"copies": copies, "labels": gram * (params @ truth["basis"]) + sigma * jnp.sqrt(gram) * z}
        factor, z = draws.wishart_factor(key, self.dim, rows)
        gram = factor @ factor.T
        return {"gram": gram, "labels": gram @ params + sigma * factor @ z}

    def measure(self, truth: Arrays, params: jax.Array) -> Arrays:
        return {"test_loss": ((params - truth["weights"]) ** 2).sum(), "weight_norm": (params**2).sum()}

    def predict(self, workflow: Workflow) -> dict[str, Prediction]:
        """OLS only; E |w_t - w*|^2 with b = sigma^2 d / (n - d - 1), the error of the first fit."""
        n, d = workflow.rows, self.dim
        if self.ridge or n < d + 2:
            return {}
        first = self.noise * d / (n - d - 1)
        if any(m.take < m.available for m in workflow.mixtures):
            law = Prediction(
                first * subsampled(workflow.generations),
                "b (1 + sum_{2..t} (2 - 1/(j-1))/j^2 + 1 - 1/t) -> b (pi^2/2 - 2), leading order "
                "on one design and on fresh ones",
                False,
            )
        elif self.design == "fresh":
            law = self._fresh(workflow)
        elif _whole_copies(workflow):
            found = moments.recursion(workflow, lambda center, spread, rows: first * n, first * n)
            law = Prediction(
                found.center,
                "recursion over the table with b = sigma^2 d/(n-d-1): t b (replace), "
                "b sum 1/i^2 (accumulate), b H_t (replace_multiple); 2404.01413, 2410.22812",
            )
        else:
            return {}
        law = replace(law, diverges=moments.walks(workflow))
        out = {"test_loss": law}
        if law.exact:  # w_t is an unbiased estimate of w*
            out["weight_norm"] = Prediction(law.values + self.signal * d, "E |w*|^2 + E |w_t - w*|^2")
        return out

    def _fresh(self, workflow: Workflow) -> Prediction:
        """Fresh inputs: w_t = w_{t-1} + G_t^-1 X_t^T noise when the mixture only grows."""
        d, sigma2 = self.dim, self.noise
        rows = np.array([m.available for m in workflow.mixtures], float)
        if _grows(workflow):
            added = np.diff(rows, prepend=0.0)
            values = sigma2 * d * np.cumsum(added / rows / (rows - d - 1))
            return Prediction(values, "sigma^2 d sum n_i / (N_i (N_i - d - 1)), N_i = rows of fit i")
        values = moments.along_chain(workflow, 0.0, lambda v, n, s: v + sigma2 * d / (n - d - 1))
        return Prediction(values, "sum of sigma^2 d / (rows - d - 1) over the fits (2402.07712)")


def subsampled(generations: int) -> np.ndarray:
    """Error of accumulate_subsample over that of the first fit, leading order in 1/n, [generations]."""
    t = np.arange(1, generations + 1, dtype=float)
    terms = np.where(t > 1, (2 - 1 / np.maximum(t - 1, 1)) / t**2, 0.0)
    return 2 - 1 / t + np.cumsum(terms)


def _solve(gram: jax.Array, labels: jax.Array) -> jax.Array:
    factor = draws.cholesky(gram)
    half = jax.scipy.linalg.solve_triangular(factor, labels, lower=True)
    return jax.scipy.linalg.solve_triangular(factor, half, lower=True, trans=1)


def _whole_copies(workflow: Workflow) -> bool:
    """Whether every slice is a whole number of copies of the n inputs."""
    return all(
        s.rows % workflow.rows == 0 and s.start % workflow.rows == 0 and m.take == m.available
        for m in workflow.mixtures
        for s in m.slices
    )


def _grows(workflow: Workflow) -> bool:
    """Whether each generation is fitted on all that the one before it was, and its samples."""
    before: set = set(workflow.mixtures[0].slices)
    if any(m.take < m.available for m in workflow.mixtures):
        return False
    for m in workflow.mixtures[1:]:
        new = set(m.slices) - before
        if not before <= set(m.slices) or {s.source for s in new} != {m.generation - 1}:
            return False
        before = set(m.slices)
    return True
