"""How much a curve changed between generations: contrasts and ratios, paired where seeds are known."""

import math
from collections.abc import Mapping

import numpy as np

from collapse_jax.measures.series import Curve
from collapse_jax.measures.stats import (
    LEVEL,
    NOTHING,
    Estimate,
    Interval,
    column_estimates,
    estimate,
    quantile,
)


def usable(curve: Curve) -> np.ndarray:
    """Columns whose mean is finite and over every seed that has not diverged."""
    survivors = max(int(curve.n_G.max(initial=0)) - len(curve.diverged), 1)
    return np.flatnonzero(np.isfinite(curve.mean_G) & (curve.n_G >= survivors))


def not_finite(curve: Curve) -> str:
    """Where the curve was recorded as not finite, in words; empty where nowhere."""
    if curve.diverged:
        return ", ".join(f"seed {s} diverged at generation {t}" for s, t in curve.diverged.items())
    bad_G = (curve.n_G > 0) & ~np.isfinite(curve.mean_G)
    return (
        f"the mean is not finite at generation {curve.generations_G[bad_G.argmax()]}" if bad_G.any() else ""
    )


def contrast(curve: Curve, weights: Mapping[int, float], level: float = LEVEL) -> Estimate:
    """The sum of weight x mean over columns, in the unit of the curve, with its Student t interval.

    Of every seed the same sum is formed, so what a seed's generations share cancels. A curve of means only
    adds the standard errors in quadrature, which is wider than pairing where generations are positively
    correlated.
    """
    columns, w = np.array(list(weights)), np.array(list(weights.values()), float)
    if len(curve.values_SG):
        return estimate(curve.values_SG[:, columns] @ w, level)
    se = float(np.sqrt(np.square(w * curve.se_G[columns]).sum()))
    n = int(curve.n_G[columns].min())
    return Estimate(float(curve.mean_G[columns] @ w), float(quantile(n, level)) * se, se, n)


def largest_rise(curve: Curve, first: int, later: np.ndarray, level: float = LEVEL) -> tuple[Interval, int]:
    """(the largest mean rise of `later` columns over `first`, the column where it is).

    Paired t tests, exact for normal seeds however the errors of one seed's generations are correlated, as in
    a lineage they are; a variance pooled over generations would not be. The lower end shows that some column
    rises: the last one, where a lasting rise is largest, has one tail of the level to itself, the others
    share half of the other tail (Bonferroni-Dunn), so all of them are wrong with probability 3/4 (1 - level) at
    most. The upper end bounds every column, which needs no correction (intersection-union test, Berger 1982).
    """
    if len(curve.values_SG):
        rise_G, half_G, se_G, n_G = column_estimates(
            curve.values_SG[:, later] - curve.values_SG[:, [first]], level
        )
    else:
        rise_G, n_G = (
            curve.mean_G[later] - curve.mean_G[first],
            np.minimum(curve.n_G[later], curve.n_G[first]),
        )
        se_G = np.hypot(curve.se_G[later], curve.se_G[first])
        half_G = quantile(n_G, level) * se_G
    shared_G = quantile(n_G, 1 - (1 - level) / 2 / max(len(later) - 1, 1)) * se_G
    shared_G[-1] = half_G[-1]
    top = int(rise_G.argmax())
    ends = float((rise_G - shared_G).max()), float((rise_G + half_G).max())  # nan where one has no interval
    return Interval(float(rise_G[top]), *ends), int(later[top])


def ratio(curve: Curve, first: int, last: int, level: float = LEVEL) -> Estimate:
    """Mean in column `last` over mean in column `first` by the delta method; nan unless the first is > 0.

    The residual of seed s is (x_s,last - ratio x_s,first) / mean_first, so pairing by seed is kept.
    """
    if not len(curve.values_SG):
        a, b = curve.at(first), curve.at(last)
        if not a.mean > 0:
            return NOTHING
        r, n = b.mean / a.mean, min(a.n, b.n)
        se = math.hypot(b.se, r * a.se) / a.mean
        return Estimate(r, float(quantile(n, level)) * se, se, n)
    pairs_S2 = curve.values_SG[:, [first, last]]
    pairs_S2 = pairs_S2[np.isfinite(pairs_S2).all(1)]
    if not len(pairs_S2) or not pairs_S2[:, 0].mean() > 0:
        return NOTHING
    base = pairs_S2[:, 0].mean()
    r = float(pairs_S2[:, 1].mean() / base)
    spread = estimate((pairs_S2[:, 1] - r * pairs_S2[:, 0]) / base, level)
    return Estimate(r, spread.half, spread.se, spread.n)


def exponentiated(change: Estimate, scale: float = 1.0) -> Interval:
    """exp(scale x change): the factor that a change of a logarithm stands for."""
    with np.errstate(over="ignore"):
        value, low, high = (float(np.exp(scale * x)) for x in (change.mean, change.low, change.high))
    return Interval(value, low, high)
