"""Kazdan et al. 2410.16713 and Schaeffer et al. 2503.03150: uniform over K symbols, replace until one is
left.

Published grid: K in 10 ... 1e5, n in 10 ... 1e5, seeds 0-99; means of the collapse time for K = 10 read
off their figure (3 %). Sample sizes up to 1000 are in `sweep()`; the larger ones take 1e5 generations and
need patience.
"""

from ml_collections import ConfigDict

from collapse_jax.closed_form import panel, template

SIZES = {10: 300, 100: 3000}  # n -> generations, enough for every chain to collapse
KEPT = ("entropy", "heterozygosity", "survivors", "collapsed")
STEPS = {10: 17.0, 100: 205.0, 1000: 1800.0}


def _reference(symbols: int) -> tuple:
    return (
        tuple(
            {
                "label": "Kazdan et al. (read off their figure)",
                "arm": f"n{n}",
                "metric": "generations_to_collapse",
                "points": [[SIZES[n], STEPS[n]]],
            }
            for n in SIZES
        )
        if symbols == 10
        else ()
    )


def get_config() -> ConfigDict:
    return template(
        "thrive_discrete",
        {
            f"n{n}": panel(
                "discrete", ("replace",), rows=n, generations=t, seeds=100, metrics=KEPT, symbols=10
            )
            for n, t in SIZES.items()
        },
        reference=tuple(r | {"arm": f"{r['arm']}/replace"} for r in _reference(10)),
    )


def sweep():
    """Number of symbols; then K = 10 with n = 1000."""
    for symbols in (10, 100, 1000):
        point: dict = {f"panels.n{n}.settings.symbols": symbols for n in SIZES}
        yield point if symbols == 10 else point | {"reference": ()}
    yield {
        "panels.n100.rows": 1000,
        "panels.n100.generations": 20_000,
        "panels.n100.metrics": ("collapsed",),
        "reference": (
            {
                "label": "Kazdan et al. (read off their figure)",
                "arm": "n100/replace",
                "metric": "generations_to_collapse",
                "points": [[20_000, STEPS[1000]]],
            },
        ),
    }
