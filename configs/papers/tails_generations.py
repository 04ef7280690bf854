"""Dohmatob et al. 2402.07043: generations that each see n rows of the one before, and what more rows help.

Panel "fold": n = 10,000 rows a generation, ten generations; the loss grows like g_t^-c ~ (t/2)^c, where the paper
states n-fold generations cost linearly (reference: the law of endless sources). Panels "source": a first
model of T_0 = 1000 rows teaches a second with 1 to 100 times as many, which comes to a plateau
~ T_0^-c (Corollary 2.2). Sizes are ours.
"""

from ml_collections import ConfigDict

from collapse_jax.closed_form import hutter, panel, template
from collapse_jax.workflows import Arm

FOLD, TIMES = 10, (1, 3, 10, 30, 100)


def get_config() -> ConfigDict:
    first = hutter.clean_law(1.5, 10_000)
    growth = hutter.survival([1] * FOLD) ** (-1 / 3)
    panels = {
        "fold": panel(
            "hutter", ("replace", "accumulate"), rows=10_000, generations=FOLD, seeds=200, exponent=1.5
        )
    }
    for times in TIMES:
        arms = {"replace": Arm("table", table=((1,), (0, times)))}
        panels[f"source_x{times}"] = panel("hutter", arms, rows=1000, generations=2, seeds=200, exponent=1.5)
    return template(
        "tails_generations",
        panels,
        reference=(
            {
                "label": "g_t^-c Gamma(c)/(beta Z^(1/beta)) n^-c, endless source",
                "arm": "fold/replace",
                "metric": "test_loss",
                "points": [[t + 1, float(first * g)] for t, g in enumerate(growth)],
            },
        ),
    )


def sweep():
    """The exponent of the facts; references are for the first."""
    for exponent in (1.5, 2.0):
        names = ("fold", *(f"source_x{times}" for times in TIMES))
        point: dict = {f"panels.{name}.settings.exponent": exponent for name in names}
        yield point if exponent == 1.5 else point | {"reference": ()}
