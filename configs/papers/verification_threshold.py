"""Feng et al. 2406.07515: labels wrong with probability p through a verifier with phi = 0.9, psi = 0.3.

The threshold is p* = phi / (phi + psi) = 0.75: below it the classifier fitted on verified labels nears the
best error as n grows, above it the worst. A verifier that keeps everything has p* = 0.5. Error rates,
dimension and n are ours, the paper's theory has none.
"""

from ml_collections import ConfigDict

from collapse_jax.closed_form import panel, template

WRONG = (0.4, 0.6, 0.7, 0.8)


def _panels(rows: int) -> dict:
    return {
        f"{name}_p{round(100 * wrong)}": panel(
            "verified",
            ("replace", "accumulate"),
            rows=rows,
            generations=5,
            seeds=2000,
            metrics=("test_loss", "kept"),
            wrong=wrong,
            keep_right=right,
            keep_wrong=kept,
        )
        for name, right, kept in (("verified", 0.9, 0.3), ("unverified", 1.0, 1.0))
        for wrong in WRONG
    }


def get_config() -> ConfigDict:
    return template("verification_threshold", _panels(1000))


def sweep():
    """The transition sharpens with n."""
    for rows in (100, 1000, 10_000):
        yield {f"panels.{name}.rows": rows for name in _panels(rows)}
