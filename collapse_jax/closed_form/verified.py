"""Noisy labels that pass a verifier: a linear classifier is saved or ruined at a threshold.

Feng et al. 2406.07515: inputs of two Gaussian classes, x ~ N(y mu, I) with y = +-1; a synthetic label is wrong
with probability p; the verifier keeps a right one with probability phi, a wrong one with psi. What is kept is
wrong with probability p psi / (p psi + (1-p) phi), below a half exactly when p < p* = phi / (phi + psi): with
many rows the error of the classifier then goes to the best possible, above p* to the worst.

The classifier is the average of y x (the linear discriminant of known, equal covariances). Given a right and b
wrong labels it is normal with mean mu (a - b)/(a + b) and covariance I/(a + b), and (a, b) is multinomial, so
its expected error is a sum over both, for every n.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm
from scipy.interpolate import make_interp_spline
from scipy.special import gammaln, ndtr

from collapse_jax.closed_form import binomial, draws
from collapse_jax.closed_form.family import Family, Prediction
from collapse_jax.config import choice, number
from collapse_jax.workflows import Workflow

Arrays = dict[str, jax.Array]
COUNTS = 1000  # of kept and of wrong labels that a sum visits; the error varies over sqrt(rows) / (2 margin) of them
NODE = 0.1


@dataclass(frozen=True)
class Verified(Family):
    """dim: d. margin: |mu|, the best error is Phi(-margin). wrong: p. keep_right: phi. keep_wrong: psi.
    labels: "noisy" flips the true label with probability p; "model" takes the classifier's own answer.
    """

    dim: int = number(10, 1, 65536)
    margin: float = number(1.0, 0.0, 37.0)
    wrong: float = number(0.4, 0.0, 1.0)
    keep_right: float = number(1.0, 0.0, 1.0)
    keep_wrong: float = number(1.0, 0.0, 1.0)
    labels: str = choice("noisy", ("noisy", "model"))

    units: ClassVar = {"test_loss": "probability", "kept": "ratio", "kept_wrong": "ratio"}

    def problems(self) -> Iterator[str]:
        if self.margin <= 0:
            yield f"margin={self.margin:g} must be above 0"
        if self.keep_right == 0 and self.keep_wrong == 0:
            yield "keep_right and keep_wrong are both 0, so nothing is ever kept; raise one"
        elif self.labels == "noisy" and self.kept == 0:
            yield f"wrong={self.wrong:g} makes only labels that the verifier never keeps; change one of them"

    @property
    def draws_statistics(self) -> bool:  # type: ignore[override]
        return self.labels == "noisy"

    @property
    def threshold(self) -> float:
        """p* = phi / (phi + psi)."""
        return self.keep_right / (self.keep_right + self.keep_wrong)

    @property
    def best(self) -> float:
        """Error of the best classifier."""
        return float(ndtr(-self.margin))

    def truth(self, key: jax.Array, rows: int) -> jax.Array:
        """mu [d]; its direction has no meaning."""
        return jnp.zeros(self.dim).at[0].set(self.margin)

    def real(self, truth: jax.Array, key: jax.Array, rows: int) -> Arrays:
        """Rows with their right labels, all kept. `x` is y x: the class is folded away."""
        x = truth + draws.normal(key, (rows, self.dim))
        return {"x": x, "right": jnp.ones(rows), "kept": jnp.ones(rows)}

    def draw(self, truth: jax.Array, params: Arrays, key: jax.Array, rows: int, **_: Any) -> Arrays:
        of_x, of_label, of_verifier = jax.random.split(key, 3)
        x = truth + draws.normal(of_x, (rows, self.dim))
        noisy = draws.uniform(of_label, (rows,)) >= self.wrong
        right = noisy if self.labels == "noisy" else x @ params["weights"] > 0
        chance = jnp.where(right, self.keep_right, self.keep_wrong)
        kept = draws.uniform(of_verifier, (rows,)) < chance
        return {"x": x, "right": right.astype(float), "kept": kept.astype(float)}

    def streams(self, workflow: Workflow) -> bool:
        return True

    def statistics(self, truth: jax.Array, rows: Arrays, weight: jax.Array) -> Arrays:
        used, label = weight * rows["kept"], 2 * rows["right"] - 1
        return {
            "rows": weight.sum(),
            "right": (used * rows["right"]).sum(),
            "wrong": (used * (1 - rows["right"])).sum(),
            "sum": (used * label) @ rows["x"],
        }

    def estimate(self, truth: jax.Array, statistics: Arrays) -> Arrays:
        kept = statistics["right"] + statistics["wrong"]
        some = jnp.maximum(kept, 1)
        return {
            "weights": statistics["sum"] / some,
            "kept": kept / statistics["rows"],
            "kept_wrong": statistics["wrong"] / some,
        }

    def real_statistics(self, truth: jax.Array, key: jax.Array, rows: jax.Array) -> Arrays:
        return self._sums(truth, key, rows, rows, jnp.zeros(()))

    def draw_statistics(self, truth: jax.Array, params: Arrays, key: jax.Array, rows: jax.Array) -> Arrays:
        """Kept right and kept wrong labels are multinomial; the sum is normal given them."""
        of_kept, of_wrong, of_sum = jax.random.split(key, 3)
        kept = jax.random.binomial(of_kept, rows, self.kept)
        wrong = jax.random.binomial(of_wrong, kept, self.wrong * self.keep_wrong / self.kept)
        return self._sums(truth, of_sum, rows, kept - wrong, wrong)

    def _sums(
        self, truth: jax.Array, key: jax.Array, rows: Any, right: jax.Array, wrong: jax.Array
    ) -> Arrays:
        total = (right - wrong) * truth + jnp.sqrt(right + wrong) * draws.normal(key, (self.dim,))
        return {"rows": jnp.asarray(rows, float), "right": right, "wrong": wrong, "sum": total}

    @property
    def kept(self) -> float:
        """Share of noisy labels that pass."""
        return self.wrong * self.keep_wrong + (1 - self.wrong) * self.keep_right

    def measure(self, truth: jax.Array, params: Arrays) -> Arrays:
        """`test_loss` is the exact error of the classifier; one half when nothing was kept."""
        w = params["weights"]
        length = jnp.linalg.norm(w)
        score = jnp.where(length > 0, w @ truth / jnp.where(length > 0, length, 1.0), 0.0)
        return {"test_loss": norm.cdf(-score), "kept": params["kept"], "kept_wrong": params["kept_wrong"]}

    def predict(self, workflow: Workflow) -> dict[str, Prediction]:
        """Noisy labels: any table that is used whole. `kept` where all rows of a mixture are."""
        if self.labels != "noisy" or any(m.take < m.available for m in workflow.mixtures):
            return {}
        known: dict[tuple[int, int], float] = {}
        out = []
        for m in workflow.mixtures:
            real = sum(s.rows for s in m.slices if s.source == 0)
            sizes = (real, m.available - real)
            if sizes not in known:
                known[sizes] = self.expected_error(*sizes)
            out.append((known[sizes], (real + self.kept * sizes[1]) / m.available))
        loss, kept = np.array(out).T
        law = "E Phi(-margin cos(w, mu)), w ~ N(mu (a-b)/(a+b), I/(a+b)), (a, b) multinomial; p* = phi/(phi+psi)"
        return {
            "test_loss": Prediction(loss, law),
            "kept": Prediction(kept, "(real + synthetic ((1-p) phi + p psi)) / rows"),
        }

    def expected_error(self, real: int, synthetic: int) -> float:
        """Exact expected error of a fit on `real` clean and `synthetic` verified rows, over all counts."""
        kept, of_kept = binomial.counts(synthetic, self.kept, COUNTS)
        wrong, of_wrong = binomial.counts(kept, self.wrong * self.keep_wrong / self.kept, COUNTS)
        rows = real + kept[:, None]
        shift = self.margin * (rows - 2 * wrong) / np.sqrt(np.maximum(rows, 1))
        error = np.where(rows > 0, self._error(shift), 0.5)
        return float(of_kept @ (of_wrong * error).sum(1))

    def _error(self, shift: np.ndarray) -> np.ndarray:
        """Expected error of a classifier whose direction is that of N(shift e_1, I) where mu is along e_1, elementwise.

        A convolution with a normal, so smooth: a spline of degree 7 through nodes `NODE` apart is right to 1e-11.
        """
        nodes = np.arange(np.floor(shift.min() / NODE) - 8, shift.max() / NODE + 9) * NODE
        values = np.concatenate(
            [self._error_at(part) for part in np.array_split(nodes, -(-len(nodes) // 64))]
        )
        return make_interp_spline(nodes, values, k=7)(shift)

    def _error_at(self, shift: np.ndarray) -> np.ndarray:
        """`_error` by quadrature, [m]: in polar coordinates of (w along mu, length of the rest) it is smooth."""
        if self.dim == 1:
            return self.best + (1 - 2 * self.best) * ndtr(-shift)
        rest = self.dim - 1
        length, middle = np.hypot(shift, np.sqrt(rest)), np.arctan2(np.sqrt(rest), shift)
        r, of_r = _legendre(np.maximum(length - 9, 0), length + 9)
        # Within nine of the centre; the error of a direction falls within 1 / margin of a right angle.
        beside = np.where(length > 9, np.arcsin(9 / np.maximum(length, 9)), np.pi)
        angle, of_angle = _legendre(
            np.maximum(middle - beside, 0),
            np.minimum(middle + beside, np.pi),
            max(96, round(8 * self.margin)),
        )
        r, along, across = r[:, :, None], np.cos(angle)[:, None], np.sin(angle)[:, None]
        log = -0.5 * ((r * along - shift[:, None, None]) ** 2 + (r * across) ** 2)
        log = log + (rest - 1) * np.log(across) + rest * np.log(r) - gammaln(rest / 2) - rest / 2 * np.log(2)
        density = np.exp(log) * np.sqrt(2 / np.pi)
        return np.einsum("mra,ma,mr,ma->m", density, ndtr(-self.margin * along[:, 0]), of_r, of_angle)


def _legendre(low: np.ndarray, high: np.ndarray, count: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights on [low, high], [m, count] each."""
    x, w = np.polynomial.legendre.leggauss(count)
    half = (high - low)[:, None] / 2
    return low[:, None] + half * (x + 1), half * w
