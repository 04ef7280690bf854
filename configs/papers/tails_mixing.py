"""Dohmatob et al. 2402.07043, Theorem 3.2: a few real rows among those of a teacher cut at rank k.

A plateau near k^-(beta-1) from n ~ k^beta to k^beta / share, then "grokking": (share n)^-c. Generation 2 of
each panel is fitted on share * n real and (1 - share) * n synthetic rows; panels are n, arms are shares.
beta = 1.5, k = 30, 10,000 ranks; sizes are ours.
"""

from ml_collections import ConfigDict

from collapse_jax.closed_form import panel, template
from collapse_jax.workflows import Arm

ROWS = (100, 1000, 10_000, 100_000)
SHARES = (0.0, 0.01, 0.1, 0.5)


def get_config() -> ConfigDict:
    arms = {
        f"real_{round(100 * share):02d}": Arm("table", table=((1,), (share, 1 - share))) for share in SHARES
    }
    return template(
        "tails_mixing",
        {
            f"n{n}": panel(
                "hutter", arms, rows=n, generations=2, seeds=200, teacher="perfect", exponent=1.5, rank_cut=30
            )
            for n in ROWS
        },
    )


def sweep():
    """Where the teacher's tail is cut."""
    for cut in (10, 30, 100):
        yield {f"panels.n{n}.settings.rank_cut": cut for n in ROWS}
