"""Shumailov et al. 2305.17493: a two-component Gaussian mixture refitted by EM, n = 1000, 2050 times.

Published: full covariances in two dimensions, n = 1000 (also 500 and more), snapshots at 0, 50, 100, 150,
200, 350, 2000; the components' standard deviation falls from 0.90 to 0.010. The distance of the centres and
the number of chains are ours.
"""

from ml_collections import ConfigDict

from collapse_jax.closed_form import panel, template


def get_config() -> ConfigDict:
    return template(
        "curse_gmm",
        {
            "gmm": panel(
                "mixture_em",
                ("replace", "accumulate_subsample"),
                rows=1000,
                generations=2050,
                seeds=8,
                metrics=(
                    "variance_ratio",
                    "mean_error",
                    "component_deviation",
                    "smaller_weight",
                    "l2_distance",
                    "test_loss",
                ),
                deviation=0.9,
            )
        },
        chunk=2,  # EM takes as many steps as the slowest chain of a chunk needs
        reference=(
            {
                "label": "Shumailov et al.",
                "arm": "replace",
                "metric": "component_deviation",
                "points": [[1, 0.90], [2001, 0.010]],
            },
        ),
    )


def sweep():
    """Sample sizes of the paper that fit a laptop."""
    for rows in (500, 1000):
        yield {"panels.gmm.rows": rows} | ({} if rows == 1000 else {"reference": ()})
