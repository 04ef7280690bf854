"""Dohmatob et al. 2402.07043: the triplet law of a memory of width d, E ~ n^-c + d^-c_q + k^-(beta-1).

Panels are (n, d); generation 1 is fitted on real rows, generation 2 on rows whose tail is cut at rank 100. What is
stored is all that was seen; `settings.strength` takes the other rules. Sizes are ours.
"""

from ml_collections import ConfigDict

from collapse_jax.closed_form import panel, template

ROWS, WIDTHS = (100, 1000, 10_000), (30, 100, 300)


def get_config() -> ConfigDict:
    return template(
        "tails_memory",
        {
            f"n{n}_d{width}": panel(
                "memory",
                ("replace",),
                rows=n,
                generations=2,
                seeds=100,
                exponent=1.5,
                width=width,
                rank_cut=100,
            )
            for n in ROWS
            for width in WIDTHS
        },
    )


def sweep():
    """What is stored, and the cut."""
    names = [f"n{n}_d{width}" for n in ROWS for width in WIDTHS]
    for strength in ("counts", "seen", "head"):
        for cut in (30, 100, 0):
            yield {
                f"panels.{name}.settings.{key}": value
                for name in names
                for key, value in (("strength", strength), ("rank_cut", cut))
            }
