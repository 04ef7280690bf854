"""Dohmatob et al. 2402.07043, Theorem 2.1: a teacher without a tail turns a scaling law into a plateau.

Facts with beta = 1.5 over 10,000 ranks; panels are n: generation 1 is fitted on real
rows (E ~ n^-c, c = 1/3), generation 2 on n rows of a perfect teacher cut at rank 1000, at top-p 0.97, or
narrowed to temperature 0.77 (beta' = 1.95). The references are the laws for endless sources. Sizes are ours.
"""

from ml_collections import ConfigDict

from collapse_jax.closed_form import hutter, panel, template

ROWS = (100, 1000, 10_000, 100_000)
SAMPLERS: dict = {"cut": {"rank_cut": 1000}, "top_p": {"top_p": 0.97}, "narrow": {"temperature": 1.5 / 1.95}}


def _reference() -> tuple:
    endless = {
        "cut": lambda n: hutter.endless_loss(1.5, n, cut=1000),
        "narrow": lambda n: hutter.narrow_law(1.5, 1.95, n),
    }
    return tuple(
        {
            "label": "endless source (2402.07043)",
            "arm": f"{name}_n{n}/replace",
            "metric": "test_loss",
            "points": [[1, hutter.endless_loss(1.5, n)], [2, law(n)]],
        }
        for name, law in endless.items()
        for n in ROWS
    )


def get_config() -> ConfigDict:
    return template(
        "tails_cut",
        {
            f"{name}_n{n}": panel(
                "hutter",
                ("replace",),
                rows=n,
                generations=2,
                seeds=500,
                teacher="perfect",
                exponent=1.5,
                **sampler,
            )
            for name, sampler in SAMPLERS.items()
            for n in ROWS
        },
        reference=_reference(),
    )


def sweep():
    """Where the tail is cut."""
    for cut in (100, 300, 1000):
        yield {f"panels.cut_n{n}.settings.rank_cut": cut for n in ROWS} | (
            {} if cut == 1000 else {"reference": ()}
        )
