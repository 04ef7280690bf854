"""Barzilai & Shamir 2505.19046: without smoothness accumulate collapses, at the second generation already.

The family is ours, in the spirit of theirs (see `closed_form/pathological.py`). Panels are sample sizes: more
rows do not help. The reference is the share of chains that have collapsed, 1 - 1/t under accumulate.
"""

from ml_collections import ConfigDict

from collapse_jax.closed_form import panel, template

ROWS = (10, 100, 1000)
GENERATIONS = 10


def get_config() -> ConfigDict:
    arms = ("replace", "accumulate")
    return template(
        "pathological",
        {
            f"n{rows}": panel("pathological", arms, rows=rows, generations=GENERATIONS, seeds=1000)
            for rows in ROWS
        },
        reference=tuple(
            {
                "label": "1 - 1/t",
                "arm": f"n{rows}/accumulate",
                "metric": "collapsed",
                "points": [[t, 1 - 1 / t] for t in range(1, GENERATIONS + 1)],
            }
            for rows in ROWS
        ),
    )
