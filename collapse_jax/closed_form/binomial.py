"""Sums over the counts of binomial laws: every count that has weight, or evenly spaced ones when they are many."""

from typing import Any

import numpy as np
from scipy.stats import binom


def counts(trials: Any, p: Any, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts and their weights, [..., at most `most`] each, of Binomial(trials, p) for arrays [...].

    Beyond eight standard deviations and twenty counts lies less than 1e-15. Counts that are spaced evenly, for those
    are many, give the same sums: what differs is the Fourier transform of the summand at the frequency of the spacing
    (Poisson), below 1e-20 where the spacing is under a tenth of the scale on which the summand varies, as it is for
    the weights themselves from `most` = 200 on.
    """
    trials, p = np.broadcast_arrays(np.asarray(trials, float), np.asarray(p, float))
    mean, spread = trials * p, 8 * np.sqrt(trials * p * (1 - p)) + 20
    low, high = np.maximum(np.floor(mean - spread), 0), np.minimum(np.ceil(mean + spread), trials)
    step = np.maximum(np.ceil((high - low + 1) / most), 1)
    width = int(((high - low) // step).max()) + 1
    levels = low[..., None] + step[..., None] * np.arange(width)
    weights = binom.pmf(levels, trials[..., None], p[..., None])
    return levels, weights / weights.sum(-1, keepdims=True)
