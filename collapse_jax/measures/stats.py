"""Uncertainty over seeds: Student t intervals and z-scores against a prediction."""

from dataclasses import dataclass

import numpy as np

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` seeds with its standard error; `half` is half the width of the t interval.

    `se` and `half` are nan where one seed cannot tell.
    """

    mean: float
    half: float
    se: float
    n: int

    @property
    def low(self) -> float:
        return self.mean - self.half

    @property
    def high(self) -> float:
        return self.mean + self.half

    @property
    def interval(self) -> "Interval":
        return Interval(self.mean, self.low, self.high)


@dataclass(frozen=True)
class Interval:
    """A value and the ends of its interval, which need not lie at equal distance; nan where there is none."""

    value: float
    low: float = np.nan
    high: float = np.nan

    def __neg__(self) -> "Interval":
        return Interval(-self.value, -self.high, -self.low)


NOTHING = Estimate(np.nan, np.nan, np.nan, 0)


def quantile(n: np.ndarray | float, level: float = LEVEL) -> np.ndarray:
    """Two-sided Student t quantile for n values (n - 1 degrees of freedom); nan below two values."""
    from scipy.special import stdtrit

    degrees = np.asarray(n, float) - 1
    return np.where(degrees > 0, stdtrit(np.where(degrees > 0, degrees, 1), 0.5 + level / 2), np.nan)


def column_estimates(values_SG: np.ndarray, level: float = LEVEL) -> tuple[np.ndarray, ...]:
    """(mean_G, half_G, se_G, n_G) over the finite values of each column, whose squares may overflow."""
    finite_SG = np.isfinite(values_SG)
    n_G = finite_SG.sum(0)
    some_G = np.maximum(n_G, 1)
    values_SG = np.where(finite_SG, values_SG, 0.0)
    scale_G = 2.0 ** np.frexp(np.abs(values_SG).max(0, initial=0.0))[1].clip(
        -1000, 1000
    )  # exact to divide by
    values_SG = values_SG / scale_G
    mean_G = np.where(n_G > 0, values_SG.sum(0) / some_G, np.nan)
    residual_SG = np.where(finite_SG, values_SG - np.where(n_G > 0, mean_G, 0), 0)
    variance_G = (residual_SG**2).sum(0) / np.maximum(n_G - 1, 1)
    se_G = np.where(n_G > 1, np.sqrt(variance_G / some_G), np.nan) * scale_G
    return mean_G * scale_G, quantile(n_G, level) * se_G, se_G, n_G


def estimate(values: np.ndarray, level: float = LEVEL) -> Estimate:
    """The mean of the finite values with its interval."""
    mean, half, se, n = (a[0] for a in column_estimates(np.asarray(values, float).reshape(-1, 1), level))
    return Estimate(float(mean), float(half), float(se), int(n))


def zscores(mean_G: np.ndarray, se_G: np.ndarray, predicted_G: np.ndarray) -> np.ndarray:
    """(mean - predicted) / se, nan where there is no prediction or no spread over seeds but rounding."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(se_G > 1e-9 * np.abs(mean_G), (mean_G - predicted_G) / se_G, np.nan)
