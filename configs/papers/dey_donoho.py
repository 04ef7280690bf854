"""Dey & Donoho 2410.22812: accumulate inflates the variance by sum 1/k^2 < pi^2/6 for every exponential
family.

"Augment" in the paper is accumulate here, "discard" is replace; n = 400 and 50 generations are ours. The
second panel has growing blocks (table workflows): a pool that doubles ends at 1.5, blocks of 2n after the
first at 1.43.
"""

from ml_collections import ConfigDict

from collapse_jax.closed_form import panel, template
from collapse_jax.workflows import Arm

ROWS, STEPS, BLOCKS = 400, 50, 12


def _table(sizes: list[int]) -> tuple:
    """Fit t uses all blocks so far, in multiples of n."""
    return tuple(tuple(sizes[:t]) for t in range(1, len(sizes) + 1))


def get_config() -> ConfigDict:
    both = ("replace", "accumulate")
    panels = {
        name: panel(
            "exponential",
            both,
            rows=ROWS,
            generations=STEPS,
            seeds=4000,
            metrics=("inflation",),
            distribution=name,
            mean=mean,
        )
        for name, mean in (("normal", 0.0), ("exponential", 1.0), ("bernoulli", 0.3), ("poisson", 2.0))
    }
    doubling = [1, 1, *(2**k for k in range(1, BLOCKS - 1))]
    panels["blocks"] = panel(
        "exponential",
        {
            "doubling": Arm("table", table=_table(doubling)),
            "twice": Arm("table", table=_table([1] + [2] * (BLOCKS - 1))),
        },
        rows=ROWS,
        generations=BLOCKS,
        seeds=4000,
        metrics=("inflation",),
        distribution="normal",
        mean=0.0,
    )
    sums = [[t, sum(1 / k**2 for k in range(1, t + 1))] for t in (1, 2, 5, 10, 20, STEPS)]
    return template(
        "dey_donoho",
        panels,
        reference=tuple(
            {"label": "sum 1/k^2", "arm": f"{name}/accumulate", "metric": "inflation", "points": sums}
            for name in panels
            if name != "blocks"
        ),
    )
