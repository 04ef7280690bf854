"""Suresh et al. 2412.17646: how fast replace forgets. Their settings, 2000 chains each.

Theorem 3: a Gaussian with unbiased variance, n = 100, 2500 fits: E sigma_t <= exp(-t / (4 n - 1)), given
as reference. Theorem 1: a Bernoulli with p = 0.2, n = 100, 600 fits. Theorem 2: Poisson (mean 0.05 is
ours, so that survival is seen). Corollary 1: Zipf-Mandelbrot over 1000 symbols, n = 1000, (exponent,
shift) = (1, 2.7) and (2, 5).
"""

import math

from ml_collections import ConfigDict

from collapse_jax.closed_form import panel, template

STEPS = 2500


def get_config() -> ConfigDict:
    replace = ("replace",)
    return template(
        "suresh_rates",
        {
            "gaussian": panel(
                "gaussian",
                replace,
                rows=100,
                generations=STEPS,
                seeds=2000,
                metrics=("std_ratio", "log_variance"),
                dim=1,
                covariance="unbiased",
            ),
            "bernoulli": panel(
                "exponential",
                replace,
                rows=100,
                generations=600,
                seeds=2000,
                metrics=("alive",),
                distribution="bernoulli",
                mean=0.2,
            ),
            "poisson": panel(
                "exponential",
                replace,
                rows=100,
                generations=600,
                seeds=2000,
                metrics=("alive",),
                distribution="poisson",
                mean=0.05,
            ),
            "zipf1": panel(
                "discrete",
                replace,
                rows=1000,
                generations=50,
                seeds=200,
                metrics=("survivors", "entropy"),
                kind="zipf_mandelbrot",
                symbols=1000,
                exponent=1.0,
                shift=2.7,
            ),
            "zipf2": panel(
                "discrete",
                replace,
                rows=1000,
                generations=50,
                seeds=200,
                metrics=("survivors", "entropy"),
                kind="zipf_mandelbrot",
                symbols=1000,
                exponent=2.0,
                shift=5.0,
            ),
        },
        reference=(
            {
                "label": "Theorem 3: upper bound",
                "arm": "gaussian/replace",
                "metric": "std_ratio",
                "points": [[t, math.exp(-t / 399)] for t in (1, 100, 250, 500, 1000, 1500, 2000, STEPS)],
            },
        ),
    )
