"""Kernel densities against scikit-learn, exact laws of the fitted density, and the published curves."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form_oracle import assert_follows, same_law, workflow
from sklearn import datasets
from sklearn import neighbors as sk

from collapse_jax.closed_form import engine, shapes
from collapse_jax.closed_form.kde import KernelDensity, log_kernels
from collapse_jax.workflows import Arm


def points(kind: str, rows: int, seed: int, noise: float = 0.05) -> Any:
    """The same cloud made by scikit-learn; blobs around (0, 0), (4, 1) and (-3, 5)."""
    match kind:
        case "circles":
            return datasets.make_circles(rows, noise=noise, random_state=seed)[0]
        case "moons":
            return datasets.make_moons(rows, noise=noise, random_state=seed)[0]
        case "swiss_roll":
            return datasets.make_swiss_roll(rows, noise=noise, random_state=seed)[0]
    return datasets.make_blobs(rows, centers=np.array(BLOBS), random_state=seed)[0]


BLOBS = [(0.0, 0.0), (4.0, 1.0), (-3.0, 5.0)]


def ours(kind: str, rows: int, seed: int, noise: float = 0.05) -> np.ndarray:
    with jax.enable_x64(True):
        spread = 1.0 if kind == "blobs" else noise
        return np.asarray(shapes.sample(kind, jax.random.key(seed), rows, spread, jnp.array(BLOBS)))


@pytest.mark.parametrize("kind", ["circles", "moons"])
def test_curves_are_those_of_scikit_learn(kind):
    """Without noise the point sets are equal, odd counts too."""
    for rows in (100, 101):
        theirs, made = points(kind, rows, 0, 0.0), ours(kind, rows, 0, 0.0)
        order = [np.lexsort(np.round(x, 9).T) for x in (theirs, made)]
        np.testing.assert_allclose(theirs[order[0]], made[order[1]], atol=1e-12)


@pytest.mark.parametrize("kind", shapes.DIMENSIONS)
def test_clouds_have_the_distribution_of_scikit_learn(kind):
    """Kolmogorov-Smirnov on both coordinates, their product and a slanted projection."""
    theirs, made = points(kind, 4000, 3), ours(kind, 4000, 4)
    assert made.shape == theirs.shape
    for view in (lambda x: x[:, 0], lambda x: x[:, -1], lambda x: x[:, 0] * x[:, -1], lambda x: x.sum(1)):
        assert same_law(view(theirs), view(made)) > 1e-3
    assert not np.array_equal(made[:50], made[np.argsort(made[:, 0])][:50])


@pytest.mark.slow
@pytest.mark.parametrize("kind", shapes.DIMENSIONS)
def test_moments_of_the_clouds(kind):
    """Second moment and characteristic function against many rows of scikit-learn."""
    rows, seeds = 31, 3000
    if kind == "blobs":
        clouds = [
            datasets.make_blobs(rows, 2, random_state=s, return_centers=True)[::2] for s in range(seeds)
        ]
        away = np.stack([x - np.mean(c, 0) for x, c in clouds])
    else:
        away = np.stack([points(kind, rows, s) for s in range(seeds)]) - np.asarray(shapes.center(kind))
    spread = 1.0 if kind == "blobs" else 0.05
    for each, law in (
        ((away**2).mean((1, 2)), shapes.second_moment(kind, rows, spread)),
        (np.cos(0.7 * away).mean((1, 2)), shapes.characteristic(kind, rows, spread, 0.7)),
    ):
        assert abs(each.mean() - law) < 4 * each.std() / np.sqrt(seeds)


@pytest.mark.parametrize("kind", ["moons", "swiss_roll"])
@pytest.mark.parametrize(
    ("rule", "bandwidth"),
    [("fixed", 0.01), ("fixed", 0.5), ("fixed", 100.0), ("scott", 1.0), ("silverman", 1.0)],
)
def test_log_likelihood_is_that_of_scikit_learn(kind, rule, bandwidth):
    """Mean negative log-likelihood to 1e-6 (relative where it is in the millions), of a masked pool.

    Breadth-first, its default, scikit-learn loses digits far from all rows: 0.3 nats on the roll at h = 0.5.
    """
    family = KernelDensity(data=kind, rule=rule, bandwidth=bandwidth)
    rows, test = points(kind, 150, 1), points(kind, 80, 2)
    weight = (np.arange(150) < 130).astype(float)
    with jax.enable_x64(True):
        truth = {"test": jnp.array(test), "center": jnp.zeros(family.dim), "rows": jnp.array(130.0)}
        found = family.measure(truth, family.fit(truth, jnp.array(rows), jnp.array(weight)))["test_loss"]
    oracle = sk.KernelDensity(bandwidth=bandwidth if rule == "fixed" else rule, leaf_size=1000)
    oracle.fit(rows[:130])
    np.testing.assert_allclose(float(found), -oracle.score_samples(test).mean(), rtol=1e-9, atol=1e-6)


def test_kernels_of_no_rows_and_of_rows_far_away():
    with jax.enable_x64(True):
        at, rows = jnp.array([[0.0, 0.0]]), jnp.array([[300.0, 400.0], [0.0, 0.0]])
        assert float(log_kernels(at, rows, jnp.zeros(2), 1.0)[0]) == -np.inf
        assert float(log_kernels(at, rows, jnp.array([1.0, 0.0]), 1.0)[0]) == -125000.0


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "arm"), [("fixed", "accumulate"), ("scott", "replace")])
def test_streams_agree_with_the_pool(rule, arm):
    family = KernelDensity(data="moons", rule=rule, bandwidth=0.2, test_rows=21)
    table = workflow(arm, 15, 4)
    assert family.streams(table)
    rows, pool = (engine.collect(family, table, 8, how=how) for how in ("rows", "pool"))
    for name, values in rows.items():
        np.testing.assert_allclose(values, pool[name], rtol=1e-6)
    assert not KernelDensity(rule="scott").streams(workflow("accumulate", 15, 4))


def test_a_sample_is_a_kept_row_plus_kernel_noise():
    """Fitted on two far points, h small: samples lie at them in equal shares with standard deviation h."""
    family = KernelDensity(bandwidth=0.1)
    with jax.enable_x64(True):
        kept = jnp.array([[0.0, 0.0], [50.0, 50.0]])
        drawn = np.asarray(
            family.draw(
                {}, {"width": jnp.array(0.1)}, jax.random.key(0), 20_000,
                pick=lambda key, count: kept[jax.random.randint(key, (count,), 0, 2)],
            )
        )  # fmt: skip
    far = drawn[:, 0] > 25
    assert abs(far.mean() - 0.5) < 0.02
    assert abs(drawn[~far].std() - 0.1) < 0.002 and abs((drawn[far] - 50).std() - 0.1) < 0.002


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arm", "data", "rule"),
    [
        ("replace", "circles", "fixed"),
        ("accumulate", "blobs", "scott"),
        ("accumulate_subsample", "swiss_roll", "silverman"),
        (Arm("augment", fraction=0.2), "moons", "fixed"),
    ],
    ids=lambda x: getattr(x, "workflow", x),
)
def test_fitted_density_follows_its_laws(arm, data, rule):
    """Second moment and characteristic function, 2000 chains, few rows: the laws hold for every n."""
    family = KernelDensity(data=data, rule=rule, bandwidth=0.4, test_rows=1, frequency=0.3)
    assert_follows(family, workflow(arm, 12, 8), 2000, ("second_moment", "characteristic"))


def test_the_laws_are_those_of_the_paper():
    """sigma^2 + t h^2, sigma^2 + h^2 H_t, and phi_0 kappa prod (1 + (kappa - 1)/(j + 1))."""
    family, t = KernelDensity(data="circles", bandwidth=0.3, frequency=2.0), np.arange(1, 31)
    start = shapes.second_moment("circles", 10, 0.05)
    assert start == pytest.approx((1 + 0.64) / 4 + 0.0025)
    kappa, phi = np.exp(-0.5 * (0.3 * 2.0) ** 2), shapes.characteristic("circles", 10, 0.05, 2.0)
    replace, accumulate, subsample = (
        family.predict(workflow(w, 10, 30)) for w in ("replace", "accumulate", "accumulate_subsample")
    )
    np.testing.assert_allclose(replace["second_moment"].values, start + t * 0.09)
    np.testing.assert_allclose(accumulate["second_moment"].values, start + 0.09 * np.cumsum(1 / t))
    np.testing.assert_allclose(subsample["second_moment"].values, accumulate["second_moment"].values)
    np.testing.assert_allclose(replace["characteristic"].values, phi * kappa**t)
    product = np.cumprod(np.concatenate([[1.0], 1 + (kappa - 1) / (t[:-1] + 1)]))
    np.testing.assert_allclose(accumulate["characteristic"].values, phi * kappa * product)


# Twenty runs of the published loop, n = 100, generations 1, 2, 5, 10; tolerance 3 %, 8 % for replace.
PUBLISHED = {
    ("circles", 0.1, "replace"): (1.032, 1.301, 1.912, 2.692),
    ("circles", 0.1, "accumulate_subsample"): (1.032, 1.193, 1.342, 1.393),
    ("swiss_roll", 0.5, "accumulate"): (18.19, 17.29, 16.20, 15.11),
    ("blobs", 0.5, "accumulate"): (4.02, 4.02, 4.04, 4.05),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("data", "bandwidth", "arm"), PUBLISHED)
def test_published_losses(data, bandwidth, arm):
    family = KernelDensity(data=data, bandwidth=bandwidth)
    found = engine.collect(family, workflow(arm, 100, 10), 40, metrics=("test_loss",))["test_loss"]
    theirs = np.array(PUBLISHED[data, bandwidth, arm])
    np.testing.assert_allclose(found.mean(0)[[0, 1, 4, 9]], theirs, rtol=0.08 if arm == "replace" else 0.03)


@pytest.mark.slow
def test_the_published_blobs_bug_has_a_name():
    """Test rows around other centres: the loss is hundreds of times larger and falls as kernels spread."""
    table = workflow("replace", 100, 15)
    bug = engine.collect(KernelDensity(data="blobs", published_blobs_bug=True, test_rows=30), table, 30)
    right = engine.collect(KernelDensity(data="blobs", test_rows=30), table, 30)
    bug_loss, right_loss = bug["test_loss"].mean(0), right["test_loss"].mean(0)
    assert 3.8 < right_loss[0] < 4.3 and right_loss[-1] > right_loss[0]
    assert bug_loss[0] > 5 * right_loss[0] and bug_loss[-1] < bug_loss[0]
    lines = list(KernelDensity(data="moons", bandwidth=-1.0, published_blobs_bug=True).problems())
    assert len(lines) == 2 and "bandwidth=-1" in lines[0] and "blobs" in lines[1]
