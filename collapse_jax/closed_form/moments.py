"""Exact first and second moments of a chain whose fit is a mean, for any table of workflows.py.

Rows are drawn around the mean of their model with a variance that depends on the model. Means of disjoint
sets of rows then obey a linear recursion: a set of r rows of model k has the covariance of model k with
everything older, plus variance_k / r with itself. The mean squared error of every fitted mean and the
expected variance among its rows follow for every sample size, without approximation. It contains, as
special cases, t/n (replace), sum of 1/i^2 -> pi^2/6 (accumulate; Gerstgrasser et al. 2404.01413, Dey &
Donoho 2410.22812), the harmonic sum (replace_multiple), sum of n_i/N_i^2 (any growing schedule), the
fixed-fraction loops of Alemohammad et al. 2307.01850, (1-1/n)^t and the product of 1-1/(n i^2) ->
sin(pi/sqrt n)/(pi/sqrt n) of Gaussian and discrete fits (Kazdan et al. 2410.16713).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from collapse_jax.closed_form import plan
from collapse_jax.workflows import Workflow

ModelVariance = Callable[[float, float, float], float]


@dataclass(frozen=True)
class Moments:
    """Expectations by generation, [generations] each, per unit of real variance or as given.

    center: E (fitted mean - true mean)^2. spread: E of the variance among the used rows (divided by their
    number). drawn: E variance of one row drawn from the model.
    """

    center: np.ndarray
    spread: np.ndarray
    drawn: np.ndarray


def recursion(workflow: Workflow, model_variance: ModelVariance, real_variance: float = 1.0) -> Moments:
    """Run the recursion; `model_variance(center, spread, rows)` is linear in its first two arguments."""
    if any(m.take < m.available for m in workflow.mixtures):
        return _subsampled(workflow, model_variance, real_variance)
    born: dict[tuple[int, bool], list[plan.Block]] = {}
    for b in plan.blocks(workflow):
        born.setdefault((b.born, b.source == 0), []).append(b)
    known = _Means()
    out = np.zeros((3, workflow.generations))
    for t in range(workflow.generations + 1):
        if t:
            rows = known.rows * [u[t - 1] for u in known.uses]
            weight = rows / rows.sum()
            center = float(weight @ known.cov @ weight)
            spread = float(weight @ known.second) - center
            drawn = model_variance(center, spread, rows.sum())
            out[:, t - 1] = center, spread, drawn
            known = known.join(born.get((t, False), []), known.cov @ weight, center, drawn)
        known = known.join(born.get((t, True), []), np.zeros(len(known.rows)), 0.0, real_variance).pooled(t)
    return Moments(*out)


@dataclass(frozen=True)
class _Means:
    """Means of the sets of rows that a later generation uses.

    rows: [sets]. uses: which generations use a set. cov: [sets, sets], E of products of errors of the means.
    second: [sets], E of the squared error of one row.
    """

    rows: np.ndarray = field(default_factory=lambda: np.zeros(0))
    uses: tuple[np.ndarray, ...] = ()
    cov: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    second: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def join(self, new: list[plan.Block], across: np.ndarray, center: float, drawn: float) -> "_Means":
        """Add blocks drawn around one mean: covariance `across` with known sets, `center` with each other."""
        old, extra = len(self.rows), len(new)
        cov = np.full((old + extra, old + extra), center)
        cov[:old, :old] = self.cov
        cov[:old, old:], cov[old:, :old] = across[:, None], across[None, :]
        cov[range(old, old + extra), range(old, old + extra)] += [drawn / b.rows for b in new]
        rows = np.append(self.rows, [float(b.rows) for b in new])
        second = np.append(self.second, [drawn + center] * extra)
        return _Means(rows, (*self.uses, *(b.uses for b in new)), cov, second)

    def pooled(self, after: int) -> "_Means":
        """Sets with the same future as one, those without a future dropped: accumulate keeps a single set."""
        futures: dict[bytes, list[int]] = {}
        for i, uses in enumerate(self.uses):
            if uses[after:].any():
                futures.setdefault(uses[after:].tobytes(), []).append(i)
        share = np.zeros((len(self.rows), len(futures)))
        for j, members in enumerate(futures.values()):
            share[members, j] = self.rows[members]
        rows = share.sum(0)
        share = share / rows
        uses = tuple(self.uses[members[0]] for members in futures.values())
        return _Means(rows, uses, share.T @ self.cov @ share, self.second @ share)


def _subsampled(workflow: Workflow, model_variance: ModelVariance, real_variance: float) -> Moments:
    """Accumulate-subsample: the pool grows by n rows a generation, a uniform n-subset of it is fitted.

    A subset of N rows with variance v (divided by N) has mean error v (N-n)/((N-1) n) about the pool's mean
    and expected variance v N/(N-1) (n-1)/n; both are exact for sampling without replacement.
    """
    n = workflow.rows
    pool_center, pool_spread = real_variance / n, real_variance * (n - 1) / n
    out = np.zeros((3, workflow.generations))
    for t, mixture in enumerate(workflow.mixtures, 1):
        total = mixture.available
        off = pool_spread * (total - n) / ((total - 1) * n) if total > 1 else 0.0
        spread = pool_spread * total / (total - 1) * (n - 1) / n if total > 1 else 0.0
        center = pool_center + off
        drawn = model_variance(center, spread, n)
        out[:, t - 1] = center, spread, drawn
        shift = drawn / n + off
        pool_center += shift * (n / (total + n)) ** 2
        pool_spread = (total * pool_spread + (n - 1) * drawn + total * n / (total + n) * shift) / (total + n)
    return Moments(*out)


def along_chain(
    workflow: Workflow,
    start: float | np.ndarray,
    step: Callable[[Any, int, bool], Any],
) -> np.ndarray:
    """[generations, ...] of what each fit on one source changes by `step(value, rows, synthetic)`.

    nan where a generation has other ancestors.
    """
    values = {0: start}
    out = np.full((workflow.generations, *np.shape(start)), np.nan)
    for m in workflow.mixtures:
        if len(m.slices) == 1 and m.take == m.available and m.slices[0].source in values:
            source = m.slices[0].source
            with np.errstate(over="ignore", invalid="ignore"):  # some moments of few rows grow without bound
                found = step(values[source], m.slices[0].rows, source > 0)
            out[m.generation - 1] = values[m.generation] = found
    return out


def spread(square: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Standard deviation over mean from E X^2 and E X; infinite where they overflow, nan where unknown."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        ratio = square / np.square(mean)
    return np.sqrt(np.maximum(np.where(np.isinf(square), np.inf, ratio) - 1, 0.0))


def walks(workflow: Workflow, curvature: float = 0.0) -> bool | None:
    """Whether the mean squared error of a refitted mean grows for ever; None where the table stops.

    Without real rows every fit adds its error to the last (t, or log t where samples grow with t). Accumulated
    rows weigh a new error less and less: sum 1/i^2. Real rows beside the latest samples pull the mean back, by
    the square of the samples' share against the growth of their variance, V = a + b m + curvature m^2.
    """
    match workflow.arm.workflow:
        case "replace" | "replace_multiple" | "window":
            return True
        case "accumulate" | "accumulate_subsample" | "value_of_synthetic":
            return False
        case "augment" | "fresh" if workflow.generations > 1:
            rows = {s.source > 0: s.rows for s in workflow.mixture(2).slices}
            synthetic = rows.get(True, 0)
            share = synthetic / sum(rows.values())
            return share**2 * (1 + curvature / max(synthetic, 1)) >= 1
    return None
