"""Shumailov et al. 2305.17493: a 1-D Gaussian refitted 1000 times with the biased standard deviation.

n in 100, 500, 1000, 10000; replace, and their "all data" variant, which is accumulate. The number of
repetitions is ours (100); no table of values was published.
"""

from ml_collections import ConfigDict

from collapse_jax.closed_form import panel, template


def get_config() -> ConfigDict:
    return template(
        "curse_gaussian",
        {
            f"n{n}": panel(
                "gaussian",
                ("replace", "accumulate"),
                rows=n,
                generations=1000,
                seeds=100,
                metrics=("variance_ratio", "std_ratio", "mean_error", "wasserstein2"),
                dim=1,
            )
            for n in (100, 500, 1000, 10_000)
        },
    )
