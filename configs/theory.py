"""Theory and simulation side by side for four families whose fit is a formula. Seconds on a laptop."""

from ml_collections import ConfigDict

from collapse_jax.closed_form import panel, template


def get_config() -> ConfigDict:
    three = ("replace", "accumulate_subsample", "accumulate")
    return template(
        "theory",
        {
            "gaussian": panel(
                "gaussian",
                three,
                rows=100,
                generations=30,
                seeds=2000,
                metrics=("variance_ratio", "mean_error", "test_loss"),
                dim=2,
            ),
            "regression": panel(
                "regression",
                ("replace", "replace_multiple", "accumulate"),
                rows=100,
                generations=50,
                seeds=2000,
                metrics=("test_loss",),
                dim=10,
            ),
            "exponential": panel(
                "exponential",
                ("replace", "accumulate"),
                rows=400,
                generations=50,
                seeds=2000,
                metrics=("inflation",),
                distribution="exponential",
            ),
            "discrete": panel(
                "discrete",
                ("replace", "accumulate"),
                rows=50,
                generations=50,
                seeds=2000,
                metrics=("entropy", "heterozygosity", "survivors"),
                kind="zipf",
                symbols=20,
                exponent=1.5,
            ),
        },
    )
