"""Kazdan et al. 2410.16713: a Gaussian refitted for 100 generations, biased covariance, seeds 0-99.

Published grid: d in 1, 3, 10, 31, 100 and n in 10, 32, 100, 316, 1000; one point of `sweep()` is a d. The
references of d = 1 are means of the authors' own runs (44-100 a setting), those of d = 10 are read off
their figures.
"""

from ml_collections import ConfigDict

from collapse_jax.closed_form import panel, template

ROWS = (10, 32, 100, 316, 1000)
LABEL = "Kazdan et al. (mean of their runs)"
# (arm, metric) -> {generation: value}
PUBLISHED = {
    1: {
        ("n10/replace", "variance_ratio"): {
            1: 0.9641,
            2: 0.8098,
            5: 0.5095,
            10: 0.301,
            20: 0.09286,
            50: 0.003311,
            100: 2.523e-06,
        },
        ("n10/replace", "mean_error"): {
            1: 0.1077,
            2: 0.1959,
            5: 0.3645,
            10: 0.5409,
            20: 0.8562,
            50: 0.9405,
            100: 0.9255,
        },
        ("n10/accumulate", "variance_ratio"): {
            1: 0.967,
            2: 0.9142,
            5: 0.8804,
            10: 0.8742,
            20: 0.8769,
            50: 0.8768,
            100: 0.8732,
        },
        ("n10/accumulate", "mean_error"): {
            1: 0.1012,
            2: 0.1185,
            5: 0.1388,
            10: 0.1454,
            20: 0.1559,
            50: 0.1599,
            100: 0.1581,
        },
        ("n32/replace", "variance_ratio"): {
            1: 0.9763,
            2: 0.9226,
            5: 0.8641,
            10: 0.7242,
            20: 0.4953,
            50: 0.1482,
            100: 0.07313,
        },
        ("n32/replace", "mean_error"): {
            1: 0.03318,
            2: 0.05462,
            5: 0.1464,
            10: 0.268,
            20: 0.4029,
            50: 0.6784,
            100: 0.7278,
        },
        ("n32/accumulate", "variance_ratio"): {
            1: 0.9786,
            2: 0.9595,
            5: 0.9619,
            10: 0.9564,
            20: 0.9565,
            50: 0.9548,
            100: 0.955,
        },
        ("n32/accumulate", "mean_error"): {
            1: 0.03277,
            2: 0.03874,
            5: 0.04735,
            10: 0.05063,
            20: 0.05096,
            50: 0.05242,
            100: 0.05292,
        },
        ("n100/replace", "variance_ratio"): {
            1: 0.9915,
            2: 0.9908,
            5: 0.9424,
            10: 0.8907,
            20: 0.7818,
            50: 0.5787,
            100: 0.3087,
        },
        ("n100/replace", "mean_error"): {
            1: 0.008717,
            2: 0.01877,
            5: 0.04205,
            10: 0.09371,
            20: 0.1789,
            50: 0.3388,
            100: 0.5837,
        },
        ("n100/accumulate", "variance_ratio"): {
            1: 0.9967,
            2: 1,
            5: 0.9961,
            10: 0.9935,
            20: 0.9933,
            50: 0.9965,
            100: 0.9967,
        },
        ("n100/accumulate", "mean_error"): {
            1: 0.008949,
            2: 0.01247,
            5: 0.0147,
            10: 0.01514,
            20: 0.01578,
            50: 0.01554,
            100: 0.01596,
        },
        ("n316/replace", "variance_ratio"): {
            1: 1.005,
            2: 1.006,
            5: 0.9711,
            10: 0.9718,
            20: 0.9305,
            50: 0.8942,
            100: 0.7031,
        },
        ("n316/replace", "mean_error"): {
            1: 0.002881,
            2: 0.006407,
            5: 0.01965,
            10: 0.02623,
            20: 0.08988,
            50: 0.1674,
            100: 0.1999,
        },
        ("n316/accumulate", "variance_ratio"): {
            1: 1.008,
            2: 1.011,
            5: 1.004,
            10: 1.006,
            20: 1.006,
            50: 1.009,
            100: 1.008,
        },
        ("n316/accumulate", "mean_error"): {
            1: 0.00276,
            2: 0.003715,
            5: 0.004431,
            10: 0.004326,
            20: 0.004922,
            50: 0.004829,
            100: 0.004762,
        },
    },
    10: {
        ("n10/replace", "mean_error"): {100: 10.0},
        ("n10/replace", "variance_ratio"): {100: 0.0},
        ("n10/accumulate_subsample", "mean_error"): {100: 2.59},
        ("n10/accumulate_subsample", "variance_ratio"): {100: 0.741},
        ("n10/accumulate", "mean_error"): {100: 1.57},
        ("n10/accumulate", "variance_ratio"): {100: 0.843},
    },
}


def _reference(dim: int) -> tuple:
    return tuple(
        {"label": LABEL, "arm": arm, "metric": metric, "points": [list(p) for p in points.items()]}
        for (arm, metric), points in PUBLISHED.get(dim, {}).items()
    )


def get_config() -> ConfigDict:
    return template(
        "thrive_gaussian",
        {
            f"n{n}": panel(
                "gaussian",
                rows=n,
                generations=100,
                seeds=100,
                metrics=("variance_ratio", "mean_error"),
                dim=1,
            )
            for n in ROWS
        },
        reference=_reference(1),
    )


def sweep():
    """One point a dimension, all sample sizes in it."""
    for dim in (1, 3, 10, 31, 100):
        yield {f"panels.n{n}.settings.dim": dim for n in ROWS} | {"reference": _reference(dim)}
