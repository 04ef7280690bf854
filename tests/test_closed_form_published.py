"""Predictions and simulation against numbers the papers published."""

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from collapse_jax.closed_form import engine
from collapse_jax.closed_form.discrete import Discrete
from collapse_jax.closed_form.gaussian import Gaussian
from collapse_jax.closed_form.regression import Regression
from collapse_jax.workflows import Arm, Workflow

CURVES = Path(__file__).parents[2] / "shared" / "data" / "peer-curves" / "gaussian_1d_by_iteration.csv"
WORKFLOW = {"Replace": "replace", "Accumulate": "accumulate"}


def published() -> dict[tuple[str, int], list[dict[str, str]]]:
    out = defaultdict(list)
    with open(CURVES, newline="", encoding="utf-8") as f:
        for row in csv.DictReader(f):
            out[row["setting"], int(row["n_samples_per_iteration"])].append(row)
    return out


@pytest.mark.skipif(not CURVES.is_file(), reason="the published 1-D Gaussian curves are not here")
def test_one_dimensional_gaussian_curves():
    """400 published means of 44-100 runs: mean and variance of the z-scores are those of noise around the law.

    Under replace few runs carry the mean once the variance is heavy-tailed, so late generations of small n are
    compared by the median of our own chains instead.
    """
    for (setting, n), rows in published().items():
        workflow = Workflow(Arm(WORKFLOW[setting]), n, 100)
        laws = Gaussian().predict(workflow)
        heavy = setting == "Replace"
        last = min(100, n // 3) if heavy else 100
        for metric, column in (("variance_ratio", "cov_ratio"), ("mean_error", "sq_err_mean")):
            z = np.array(
                [
                    (float(r[f"{column}_mean"]) - laws[metric].values[int(r["model_fitting_iteration"]) - 1])
                    / float(r[f"{column}_sem"])
                    for r in rows
                    if int(r["model_fitting_iteration"]) <= last
                ]
            )
            assert np.abs(z).max() < 4, (setting, n, metric, z.round(1))
            assert abs(z.mean()) < 2.5


@pytest.mark.slow
@pytest.mark.skipif(not CURVES.is_file(), reason="the published 1-D Gaussian curves are not here")
def test_one_dimensional_gaussian_medians():
    """Medians do not care about heavy tails: published medians against 4000 chains, replace, all generations."""
    for n in (10, 100):
        rows = published()["Replace", n]
        found = engine.collect(
            Gaussian(), Workflow(Arm("replace"), n, 100), 4000, metrics=("variance_ratio",)
        )
        logs = np.log(found["variance_ratio"])
        for r in rows[::7]:
            t = int(r["model_fitting_iteration"]) - 1
            # The median of k runs scatters by about 1.25 sd / sqrt k.
            scatter = 1.25 * logs[:, t].std() / np.sqrt(int(r["n_runs"]))
            published_log = np.log(float(r["cov_ratio_median"]))
            assert abs(published_log - np.median(logs[:, t])) < 4 * scatter, (n, t + 1)


def test_ten_dimensional_gaussian_at_the_100th_fit():
    """d = n = 10: squared error and trace read off the figures (two digits)."""
    for name, error, trace in (
        ("replace", 10.0, 0.0),
        ("accumulate_subsample", 2.59, 0.741),
        ("accumulate", 1.57, 0.843),
    ):
        law = Gaussian(dim=10).predict(Workflow(Arm(name), 10, 100))
        assert abs(law["mean_error"].values[-1] / error - 1) < 0.01
        assert abs(law["variance_ratio"].values[-1] - trace) < 1e-3 + 1e-2 * (trace > 0.8)


def test_regression_at_the_100th_fit():
    """d = 10, n = 1000: published means over 100 seeds, read off the figures, within 8 % of the laws."""
    for name, last in (("replace", 0.94), ("accumulate_subsample", 0.0309), ("accumulate", 0.0160)):
        law = Regression(dim=10).predict(Workflow(Arm(name), 1000, 100))["test_loss"].values
        assert abs(law[0] / 0.01002 - 1) < 0.03
        assert abs(law[-1] / last - 1) < 0.08


def test_steps_to_collapse():
    """Uniform over 10 symbols: 17, 205 and 1800 steps, means of 100 chains whose spread is 0.55 of the mean."""
    for n, steps in ((10, 17), (100, 205), (1000, 1800)):
        law = (
            Discrete(symbols=10).predict(Workflow(Arm("replace"), n, 2))["generations_to_collapse"].values[-1]
        )
        assert abs(steps / law - 1) < 3 * 0.055, law
