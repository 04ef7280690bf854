"""Dohmatob et al. 2410.04840: least squares with a fixed share of synthetic labels, a floor of share^2 c^2.

Panels are sample sizes, arms are shares of synthetic rows of a teacher at distance c^2 = 1; from the second
generation on the loss is that of the mixture. The references are the floors; the paper's experiments are on
random features and networks, sizes and noise are ours.
"""

from ml_collections import ConfigDict

from collapse_jax.closed_form import panel, template
from collapse_jax.workflows import Arm

SHARES = (0.0, 0.01, 0.1, 0.3)
ROWS = (100, 1000, 10_000)


def _name(share: float) -> str:
    return f"synthetic_{round(100 * share):02d}"


def get_config() -> ConfigDict:
    arms = {_name(s): Arm("augment", fraction=1 - s, synthetic=s) for s in SHARES}
    return template(
        "strong_collapse",
        {
            f"n{rows}": panel("strong", arms, rows=rows, generations=3, seeds=2000, dim=10, noise=0.1)
            for rows in ROWS
        },
        reference=tuple(
            {
                "label": "floor share^2 c^2 (n to infinity)",
                "arm": f"n{rows}/{_name(share)}",
                "metric": "test_loss",
                "points": [[2, share**2], [3, share**2]],
            }
            for rows in ROWS
            for share in SHARES
            if share
        ),
    )


def sweep():
    """Quality of the teacher."""
    for distance in (0.1, 1.0, 10.0):
        point: dict = {f"panels.n{rows}.settings.distance": distance for rows in ROWS}
        yield point if distance == 1.0 else point | {"reference": ()}
