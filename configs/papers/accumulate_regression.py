"""Gerstgrasser et al. 2404.01413, section 3 and appendix F: OLS relabelled by its own fit on one design,
d = 10.

Appendix F shows up to 200 fits; n = 100 and sigma^2 = 1 are choices of ours. The references are the
paper's own expressions: sigma^2 d t / (n - d - 1) for replace and its bound pi^2/6 for accumulate.
"""

import math

from ml_collections import ConfigDict

from collapse_jax.closed_form import panel, template
from collapse_jax.config import product

ROWS, DIM = 100, 10


def get_config() -> ConfigDict:
    first = DIM / (ROWS - DIM - 1)
    shown = (1, 2, 5, 10, 20, 50, 100, 200)
    return template(
        "accumulate_regression",
        {
            "regression": panel(
                "regression",
                ("replace", "replace_multiple", "accumulate"),
                rows=ROWS,
                generations=200,
                seeds=2000,
                metrics=("test_loss",),
                dim=DIM,
            )
        },
        reference=(
            {
                "label": "Theorem 1: replace",
                "arm": "replace",
                "metric": "test_loss",
                "points": [[t, first * t] for t in shown],
            },
            {
                "label": "Theorem 2: accumulate stays below",
                "arm": "accumulate",
                "metric": "test_loss",
                "points": [[t, first * math.pi**2 / 6] for t in shown],
            },
        ),
    )


def sweep():
    """Noise and sample size; the references are those of the first point and are left out elsewhere."""
    for point in product(
        panels__regression__settings__noise=(1.0, 0.1, 10.0), panels__regression__rows=(ROWS, 400)
    ):
        yield point if tuple(point.values()) == (1.0, ROWS) else point | {"reference": ()}
