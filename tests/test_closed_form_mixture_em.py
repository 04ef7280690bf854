"""Two Gaussians by EM: scikit-learn from the same start, exact moments, distances by quadrature."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form_oracle import assert_follows, workflow
from scipy import stats
from sklearn.mixture import GaussianMixture

from collapse_jax.closed_form import engine
from collapse_jax.closed_form.mixture_em import Mixture, MixtureEM, log_joint, overlap
from collapse_jax.config import BadInput


def cloud(rows: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    slanted = generator.normal(size=(rows // 3, 2)) @ np.array([[1.0, 0.0], [0.8, 0.5]]) + (3.0, 1.0)
    return np.concatenate([generator.normal(size=(rows - rows // 3, 2)), slanted])


def test_em_is_that_of_scikit_learn():
    """Weights, means and covariances from the same first M-step; rows of weight zero do not count."""
    rows, family = cloud(300), MixtureEM(tolerance=1e-6, steps=500)
    padded, weight = np.concatenate([rows, 50 + rows[:40]]), np.repeat([1.0, 0.0], [300, 40])
    away = rows - rows.mean(0)
    side = away @ np.linalg.svd(away)[2][0] > 0
    given: Any = {
        "means_init": np.stack([rows[s].mean(0) for s in (side, ~side)]),
        "weights_init": np.array([side.mean(), 1 - side.mean()]),
        "precisions_init": np.stack(
            [np.linalg.inv(np.cov(rows[s].T, bias=True) + 1e-6 * np.eye(2)) for s in (side, ~side)]
        ),
    }
    oracle: Any = GaussianMixture(2, tol=1e-6, max_iter=500, **given).fit(rows)
    with jax.enable_x64(True):
        found = family.fit({}, jnp.array(padded), jnp.array(weight))
        loss = -float(jax.scipy.special.logsumexp(log_joint(found, jnp.array(rows)), axis=1).mean())
    order = np.argsort(np.asarray(found.means)[:, 0])
    theirs = np.argsort(oracle.means_[:, 0])
    np.testing.assert_allclose(np.asarray(found.weights)[order], oracle.weights_[theirs], rtol=1e-6)
    np.testing.assert_allclose(np.asarray(found.means)[order], oracle.means_[theirs], rtol=1e-5, atol=1e-6)
    factors = np.asarray(found.factors)
    covariance = factors @ factors.mT
    np.testing.assert_allclose(covariance[order], oracle.covariances_[theirs], rtol=1e-5, atol=1e-6)
    assert loss == pytest.approx(-oracle.score(rows), abs=1e-7)


def test_em_keeps_the_moments_of_its_rows():
    """Whatever the number of steps."""
    rows = cloud(60, 3)
    for steps in (1, 7):
        with jax.enable_x64(True):
            found = MixtureEM(steps=steps, tolerance=0.0).fit({}, jnp.array(rows), jnp.ones(60))
        weights, means, factors = map(np.asarray, found)
        away = means - rows.mean(0)
        np.testing.assert_allclose(weights @ means, rows.mean(0), atol=1e-12)
        covariance = np.einsum("k,kij->ij", weights, factors @ factors.mT + away[:, :, None] * away[:, None])
        np.testing.assert_allclose(covariance, np.cov(rows.T, bias=True) + 1e-6 * np.eye(2), atol=1e-12)


def test_densities_and_distances():
    """log-density against scipy, the integral of a product by quadrature on a fine grid."""
    with jax.enable_x64(True):
        a = Mixture(jnp.array([0.3, 0.7]), jnp.array([[0.0, 1.0], [2.0, -1.0]]),
                    jnp.array([[[1.0, 0.0], [0.4, 0.6]], [[0.7, 0.0], [0.0, 1.1]]]))  # fmt: skip
        b = MixtureEM(separation=2.0, deviation=0.8, share=0.4).real_mixture()
        x = np.linspace(-9, 9, 361)
        grid = np.stack(np.meshgrid(x, x, indexing="ij"), -1).reshape(-1, 2)
        densities = [np.exp(np.asarray(log_joint(m, jnp.array(grid)))).sum(1) for m in (a, b)]
        product = float(overlap(a, b))
    by_scipy = sum(
        w * stats.multivariate_normal.pdf(grid, m, f @ f.T)
        for w, m, f in zip(*map(np.asarray, a), strict=True)
    )
    np.testing.assert_allclose(densities[0], by_scipy, atol=1e-12)
    assert product == pytest.approx(densities[0] @ densities[1] * (x[1] - x[0]) ** 2, rel=1e-6)


def test_real_rows():
    """Mean zero, the stated covariance, two heaps in the stated shares."""
    family = MixtureEM(separation=6.0, share=0.25)
    with jax.enable_x64(True):
        rows = np.asarray(family.real({"real": family.real_mixture()}, jax.random.key(1), 40_000))
    assert np.abs(rows.mean(0)).max() < 0.06
    assert rows.var(0).sum() == pytest.approx(family.real_variance, rel=0.02)
    assert (rows[:, 0] < -1.5).mean() == pytest.approx(0.25, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["replace", "accumulate", "accumulate_subsample"])
def test_moments_follow_the_exact_recursion(arm):
    """Two thousand chains on twelve rows, where EM mostly finds nonsense."""
    family, table = MixtureEM(steps=5, test_rows=1), workflow(arm, 12, 6)
    assert_follows(family, table, 2000, ("variance_ratio", "mean_error"))


@pytest.mark.slow
def test_replace_collapses_as_in_the_paper():
    """n = 50: variance is lost at (1 - 1/n)^t, the loss and the distance grow; accumulate holds."""
    family = MixtureEM(test_rows=100, steps=40)
    kept = ("test_loss", "l2_distance", "component_deviation")
    replace = engine.collect(family, workflow("replace", 50, 60), 20, metrics=kept)
    accumulate = engine.collect(family, workflow("accumulate", 50, 15), 20, metrics=kept)
    law = family.predict(workflow("replace", 50, 60))["variance_ratio"].values
    np.testing.assert_allclose(law, 0.98 ** np.arange(1, 61), rtol=1e-3)
    end, start = ({k: v[:, t].mean() for k, v in replace.items()} for t in (-1, 0))
    assert end["component_deviation"] < 0.75 * start["component_deviation"]
    assert end["l2_distance"] > 5 * start["l2_distance"] and end["test_loss"] > start["test_loss"] + 1
    held = {k: v[:, -1].mean() for k, v in accumulate.items()}
    assert held["test_loss"] < start["test_loss"] + 0.2 and held["component_deviation"] > 0.75


def test_bad_settings_get_a_line():
    assert len(list(MixtureEM(deviation=0.0, floor=0.0).problems())) == 2
    with pytest.raises(BadInput, match="too few for two components"):
        engine.prepare(MixtureEM(), workflow("replace", 5, 2), 2)
