"""Vu, Reeves & Wenger 2505.21677: K models fitted on private, public and each other's data, linear form.

Panels are alpha, the weight of each other's samples. The paper's models share their past by accumulating it
and fit n = 12,500 rows a generation; K, d and the spread of the tasks are ours.
"""

from ml_collections import ConfigDict

from collapse_jax.closed_form import panel, template

ALPHAS = (0.0, 0.5, 0.9, 1.0)


def get_config() -> ConfigDict:
    return template(
        "pool_of_models",
        {
            f"alpha{round(100 * alpha)}": panel(
                "shared_models",
                ("augment", "fresh", "accumulate"),
                rows=12_500,
                generations=20,
                seeds=2000,
                models=3,
                alpha=alpha,
                beta=0.5,
            )
            for alpha in ALPHAS
        },
    )


def sweep():
    """Share of private data among the real rows."""
    for beta in (0.0, 0.5, 1.0):
        yield {f"panels.alpha{round(100 * alpha)}.settings.beta": beta for alpha in ALPHAS}
