"""Shared by the tests of closed-form families: simulation against prediction."""

import numpy as np
from scipy import stats

from collapse_jax.closed_form import engine
from collapse_jax.closed_form.family import Family
from collapse_jax.workflows import Arm, Workflow


def workflow(arm: str | Arm, rows: int, generations: int) -> Workflow:
    return Workflow(Arm(arm) if isinstance(arm, str) else arm, rows, generations)


def z_scores(family: Family, table: Workflow, seeds: int, metrics: tuple[str, ...], **options) -> dict:
    """{metric: (mean - predicted) / standard error, [generations]}; the first seed of the stream is 11."""
    found = engine.collect(family, table, seeds, metrics=metrics, **{"seed": 11} | options)
    laws = family.predict(table)
    out = {}
    for name in metrics:
        apart = found[name].mean(0) - laws[name].values
        error = found[name].std(0, ddof=1) / np.sqrt(seeds)
        out[name] = np.where(np.abs(apart) < 1e-12, 0.0, apart / np.where(error > 0, error, 1e-12))
    return out


def assert_follows(family: Family, table: Workflow, seeds: int, metrics: tuple[str, ...], **options) -> None:
    """Every prediction within four standard errors in every generation that has one, and some has."""
    for name, z in z_scores(family, table, seeds, metrics, **options).items():
        known = z[~np.isnan(z)]
        assert known.size, f"{name} has no prediction"
        assert np.abs(known).max() < 4, (name, table.arm, z)


def same_law(a: np.ndarray, b: np.ndarray) -> float:
    """p-value of the Kolmogorov-Smirnov test of two samples."""
    return float(np.asarray(stats.ks_2samp(a, b))[1])
