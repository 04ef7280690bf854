"""Dohmatob et al. 2402.07043, Theorem 3.1: rows from the true tail help only if it begins near the cut.

A perfect teacher cut at rank 100; a tenth of its rows come from ranks >= N of the true tail. N = 101 restores
the scaling law, N = 1001 leaves the ranks between as a floor (reference). beta = 1.5; sizes are ours.
"""

from ml_collections import ConfigDict

from collapse_jax.closed_form import hutter, panel, template

ROWS, STARTS = (1000, 10_000, 100_000), (101, 301, 1001)


def get_config() -> ConfigDict:
    panels = {
        f"from{start}_n{n}": panel(
            "hutter",
            ("replace",),
            rows=n,
            generations=2,
            seeds=200,
            teacher="perfect",
            exponent=1.5,
            rank_cut=100,
            tail_share=0.1,
            tail_start=start,
        )
        for start in STARTS
        for n in ROWS
    }
    return template(
        "tails_adding",
        panels,
        reference=tuple(
            {
                "label": "floor of the ranks between, endless source",
                "arm": f"from{start}_n{n}/replace",
                "metric": "test_loss",
                "points": [[2, hutter.deep_tail_floor(1.5, 100, start)]],
            }
            for start in STARTS[1:]
            for n in ROWS
        ),
    )


def sweep():
    """Share of the rows that come from the tail."""
    for share in (0.01, 0.1, 0.5):
        yield {f"panels.from{start}_n{n}.settings.tail_share": share for start in STARTS for n in ROWS}
