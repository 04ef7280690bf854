"""Alemohammad et al. 2307.01850 (MAD): a Gaussian in 100 dimensions, 100 real and 900 synthetic rows.

The three loops: fully synthetic (replace), synthetic augmentation (a fixed 100 of the real rows + 900 of
the latest generation) and fresh data (100 new real rows + 900), all beginning with 1000 real rows;
unbiased covariance, samples narrowed by lambda = 1 and 0.8. Generations (50) and repetitions (100) are
ours.
"""

from ml_collections import ConfigDict

from collapse_jax.closed_form import panel, template
from collapse_jax.workflows import Arm

LOOPS = {
    "synthetic": Arm("replace"),
    "augment": Arm("augment", fraction=0.1, synthetic=0.9),
    "fresh": Arm("fresh", fraction=0.1, synthetic=0.9),
}


def get_config() -> ConfigDict:
    return template(
        "mad_gaussian",
        {
            name: panel(
                "gaussian",
                LOOPS,
                rows=1000,
                generations=50,
                seeds=100,
                metrics=("variance_ratio", "mean_error", "log_determinant"),
                dim=100,
                covariance="unbiased",
                narrow=narrow,
            )
            for name, narrow in (("lambda1", 1.0), ("lambda08", 0.8))
        },
    )


def sweep():
    """The variance kept in every draw."""
    for narrow in (1.0, 0.95, 0.9, 0.8, 0.7):
        yield {"panels.lambda08.settings.narrow": narrow}
