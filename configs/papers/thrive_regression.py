"""Kazdan et al. 2410.16713: OLS on one design, 100 generations, seeds 0-99.

Published grid: d in 1, 3, 10, 32, 100, sigma^2 in 0.1, 1, 10, n in 10, 32, 100, 316, 1000. Points with n
< d + 2 are left out: the error has no expectation there. Published values: d = 10, sigma^2 = 1, n = 1000,
read off the figures.
"""

from ml_collections import ConfigDict

from collapse_jax.closed_form import panel, template

DEFAULT = (10, 1.0, 1000)
LABEL = "Kazdan et al. (read off their figure)"
PUBLISHED = {
    "replace": {1: 0.01002, 100: 0.94},
    "accumulate_subsample": {1: 0.01002, 100: 0.0309},
    "accumulate": {1: 0.01002, 100: 0.0160},
}


def get_config() -> ConfigDict:
    dim, noise, rows = DEFAULT
    return template(
        "thrive_regression",
        {
            "regression": panel(
                "regression",
                rows=rows,
                generations=100,
                seeds=100,
                metrics=("test_loss",),
                dim=dim,
                noise=noise,
            )
        },
        reference=tuple(
            {"label": LABEL, "arm": arm, "metric": "test_loss", "points": [list(p) for p in points.items()]}
            for arm, points in PUBLISHED.items()
        ),
    )


def sweep():
    """The published grid."""
    for dim in (1, 3, 10, 32, 100):
        for noise in (0.1, 1.0, 10.0):
            for rows in (10, 32, 100, 316, 1000):
                if rows >= dim + 2:
                    point = {
                        "panels.regression.settings.dim": dim,
                        "panels.regression.settings.noise": noise,
                        "panels.regression.rows": rows,
                    }
                    yield point if (dim, noise, rows) == DEFAULT else point | {"reference": ()}
