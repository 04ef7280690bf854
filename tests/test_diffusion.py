"""Diffusion: the published schedules, conversions between targets, the loss and the exact bound."""

import dataclasses
import itertools
import math
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian_oracle import bound, optimal, reverse_step
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from collapse_jax.config import BadInput, resolve
from collapse_jax.models import diffusion
from collapse_jax.models.diffusion import TARGETS, Level, Noising

SCHEDULES = (
    Noising(schedule="linear"),
    Noising(schedule="cosine"),
    Noising(5000, "sigmoid", 1e-7, 2e-3),  # GeoDiff's for GEOM-Drugs
)
MEAN, VARIANCE = 0.3, 0.25


def test_linear_schedule_is_that_of_ddpm():
    found = diffusion.alpha_bars(SCHEDULES[0])
    slow = [1.0]
    for i in range(1000):
        slow.append(slow[-1] * (1 - (1e-4 + (0.02 - 1e-4) * i / 999)))
    np.testing.assert_allclose(found, slow, rtol=1e-10)
    assert found[-1] == pytest.approx(4.04e-5, rel=2e-3)  # as quoted everywhere


def test_cosine_schedule_is_the_squared_cosine_until_the_cap_on_beta():
    found = diffusion.alpha_bars(SCHEDULES[1])
    angles = (np.arange(1001) / 1000 + 0.008) / 1.008 * math.pi / 2
    wanted = np.cos(angles) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    np.testing.assert_allclose(found[:-1], wanted[:-1], rtol=1e-8)
    assert found[-1] == pytest.approx(found[-2] * 0.001, rel=1e-9)


def test_sigmoid_schedule_is_that_of_geodiff():
    found = diffusion.betas(SCHEDULES[2])
    for i in (0, 1, 2499, 4999):
        x = -6 + 12 * i / 4999
        assert found[i] == pytest.approx(1e-7 + (2e-3 - 1e-7) / (1 + math.exp(-x)), rel=1e-12)


@pytest.mark.parametrize("noising", SCHEDULES, ids=lambda n: n.schedule)
def test_levels_are_exact_at_both_ends_in_float32(noising):
    signal, sigma = diffusion.levels(noising)
    betas = diffusion.betas(noising)
    np.testing.assert_allclose(signal**2 + sigma**2, 1, rtol=1e-12)
    assert np.all(np.diff(signal) < 0) and signal[0] == 1 and sigma[0] == 0
    level = diffusion.level_at(noising, jnp.array([1, noising.steps]), 3)
    assert level.sigma.shape == (2, 1, 1)
    assert float(level.sigma[0, 0, 0]) == pytest.approx(math.sqrt(betas[0]), rel=1e-6)
    assert float(level.signal[1, 0, 0]) == pytest.approx(math.sqrt(np.prod(1 - betas)), rel=1e-6)


@given(
    st.sampled_from(TARGETS),
    st.floats(0.02, 1.55),
    st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=1, max_size=5),
)
@settings(max_examples=100, deadline=None)
def test_a_perfect_output_splits_into_what_it_was_made_of(target, angle, pairs):
    x0, noise = np.array(pairs, np.float32).T
    level = Level(np.float32(math.cos(angle)), np.float32(math.sin(angle)))
    x_t = diffusion.corrupt(x0, noise, level)
    output = diffusion.aim(x0, noise, level, target)
    found = diffusion.split(output, x_t, level, target)
    np.testing.assert_allclose(found, (x0, noise), atol=2e-3)


@given(st.sampled_from(TARGETS), st.floats(0.02, 1.55), st.floats(-3, 3), st.floats(-3, 3), st.floats(0, 2))
@settings(max_examples=100, deadline=None)
def test_any_output_splits_into_what_gives_the_state_again(target, angle, x, output, limit):
    level = Level(math.cos(angle), math.sin(angle))
    x0, noise = diffusion.split(jnp.float32(output), jnp.float32(x), level, target, limit)
    assert not limit or abs(float(x0)) <= limit * 1.0001
    assert float(diffusion.corrupt(x0, noise, level)) == pytest.approx(x, abs=1e-3)


def test_times_of_training():
    draw = jax.jit(lambda key, noising: diffusion.draw_times(key, 64, noising), static_argnums=1)
    for times in ("uniform", "stratified"):
        noising = Noising(steps=100, times=times)
        drawn = np.stack([draw(jax.random.key(i), noising) for i in range(400)])
        assert drawn.min() == 1 and drawn.max() == 100
        counts = np.bincount(drawn.ravel(), minlength=101)[1:]
        assert np.abs(counts - 256).max() < 6 * 16
        if times == "stratified":
            low = 1 + np.floor(100 * np.arange(64) / 64)
            assert np.all((drawn >= low) & (drawn <= low + 2))


@pytest.mark.parametrize(
    ("target", "variance"), list(itertools.product(TARGETS, ("posterior", "forward"))), ids=str
)
def test_weights_are_the_divergences_of_the_reverse_steps(target, variance):
    """An error in the output moves the mean of the reverse step; Gaussians that differ so are compared."""
    noising = Noising(steps=50, target=target, variance=variance, weighting="bound")
    weights = diffusion.training_weights(noising) / noising.steps
    level, estimates = diffusion.levels(noising), cast(Any, diffusion.split)
    for t in (2, 7, 25, 50):
        of_x0, _, posterior, forward = reverse_step(noising, t)
        at = Level(level.signal[t], level.sigma[t])
        moved = (estimates(d, 0.7, at, target)[0] for d in (0.0, 0.1))
        gap = of_x0 * np.diff(list(moved))[0]
        wanted = gap**2 / (2 * {"posterior": posterior, "forward": forward}[variance])
        assert weights[t] * 0.01 == pytest.approx(wanted, rel=1e-6)
    first = estimates(0.1, 0.0, Level(level.signal[1], level.sigma[1]), target)[0]
    assert weights[1] * 0.01 == pytest.approx(first**2 / (2 * diffusion.betas(noising)[0]), rel=1e-9)


def test_the_loss_under_bound_weights_is_the_bound_without_its_constants():
    noising = Noising(steps=20, target="x0", weighting="bound", times="uniform")
    x0 = jax.random.normal(jax.random.key(0), (4096, 3))
    zero = lambda x_t, t: jnp.zeros_like(x_t)  # noqa: E731
    loss = jax.jit(lambda key: diffusion.loss_terms(zero, x0, key, noising).mean())
    found = np.array([loss(jax.random.key(i)) for i in range(200)], np.float64)
    wanted = np.nansum(diffusion.term_scales(noising)) * float((x0**2).sum(1).mean())
    assert found.mean() == pytest.approx(wanted, abs=4 * found.std() / math.sqrt(200))
    exact = lambda x_t, t: x0  # noqa: E731
    assert float(diffusion.loss_terms(exact, x0, jax.random.key(1), noising).max()) == 0


ROWS, WIDTH = 2000, 8
DATA = MEAN + math.sqrt(VARIANCE) * jax.random.normal(jax.random.key(7), (ROWS, WIDTH))


def terms_of(noising):
    predict = optimal(noising, MEAN, VARIANCE)
    keys = jax.random.split(jax.random.key(8), ROWS)
    run = jax.jit(lambda x, keys: diffusion.bound_terms(predict, x, keys, noising))
    return {name: np.asarray(nats, np.float64) / WIDTH for name, nats in run(DATA, keys).items()}


@pytest.mark.parametrize(
    "noising",
    [
        Noising(100, "cosine", target="v", variance="posterior"),
        Noising(1000, "linear", target="epsilon", variance="forward"),
        Noising(5000, "sigmoid", 1e-7, 2e-3, target="x0"),
    ],
    ids=lambda n: f"{n.schedule}-{n.variance}",
)
def test_the_bound_of_the_optimal_denoiser_is_the_exact_one(noising):
    found = terms_of(noising)
    for name, wanted in zip(("prior", "steps", "decoder"), bound(noising, MEAN, VARIANCE), strict=True):
        error = found[name].std() / math.sqrt(ROWS)
        assert found[name].mean() == pytest.approx(wanted, abs=4 * error + 1e-6), name


def test_the_bound_converges_to_the_negative_log_likelihood():
    entropy = 0.5 * math.log(2 * math.pi * math.e * VARIANCE)
    noisings = [Noising(steps, target="v", variance="forward", bound_draws=16) for steps in (10, 100, 1000)]
    gaps = [sum(bound(noising, MEAN, VARIANCE)) - entropy for noising in noisings]
    assert gaps[0] < 0.1 and 8 < gaps[0] / gaps[1] < 12 and 8 < gaps[1] / gaps[2] < 12
    nats = 0.5 * (((DATA - MEAN) ** 2) / VARIANCE + math.log(2 * math.pi * VARIANCE)).mean(1)
    gap = sum(terms_of(noisings[-1]).values()) - np.asarray(nats, np.float64)
    assert gap.mean() == pytest.approx(gaps[-1], abs=4 * gap.std() / math.sqrt(ROWS))


def test_the_default_bound_of_a_perfect_denoiser_is_the_likelihood():
    """Of a Gaussian, whose likelihood is known; the posterior's variance adds 0.4 nats (0.58 bits) a dimension."""
    nats = 0.5 * (((DATA - MEAN) ** 2) / VARIANCE + math.log(2 * math.pi * VARIANCE)).mean(1)
    gaps = {
        noising.variance: sum(terms_of(noising).values()) - np.asarray(nats, np.float64)
        for noising in (Noising(target="v"), Noising(target="v", variance="posterior"))
    }
    error = {variance: gap.std() / math.sqrt(ROWS) for variance, gap in gaps.items()}
    assert Noising().variance == "forward" and abs(gaps["forward"].mean()) < 0.002 + 4 * error["forward"]
    assert gaps["posterior"].mean() == pytest.approx(0.402, abs=4 * error["posterior"])


def test_rows_of_a_batch_do_not_know_of_each_other():
    noising = Noising(100, target="v")
    predict = optimal(noising, MEAN, VARIANCE)
    keys = jax.random.split(jax.random.key(8), 6)
    run = jax.jit(lambda x, keys: diffusion.bound_terms(predict, x, keys, noising))
    whole, part = run(DATA[:6], keys), run(DATA[jnp.array([4, 1])], keys[jnp.array([4, 1])])
    for name in whole:
        np.testing.assert_allclose(part[name], whole[name][jnp.array([4, 1])], rtol=1e-5)


def test_the_estimate_over_times_has_no_bias_and_little_variance():
    """Against the sum over every time, for one row and a denoiser that is far from optimal."""
    noising = Noising(40, target="x0", schedule="linear", beta_last=0.3, bound_draws=4, variance="posterior")
    x0, rows = jnp.array([[0.5, -1.0]]), 4000
    half = lambda x_t, t: 0.5 * jnp.broadcast_to(x0, x_t.shape)  # noqa: E731
    keys = jax.random.split(jax.random.key(3), rows)
    found = diffusion.bound_terms(half, jnp.tile(x0, (rows, 1)), keys, noising)["steps"]
    wanted = diffusion.term_scales(noising)[2:].sum() * 0.25 * 1.25
    assert float(found.mean()) == pytest.approx(wanted, abs=4 * float(found.std()) / math.sqrt(rows))
    plain = dataclasses.replace(noising, weighting="bound", times="uniform")
    naive = jax.jit(lambda key: diffusion.loss_terms(half, jnp.tile(x0, (rows, 1)), key, plain))
    assert float(found.std()) < 0.3 * float(naive(jax.random.key(0)).std()) / math.sqrt(4)


def test_padding_and_the_centre_of_mass_can_be_projected_away():
    """Rows of 5 atoms of which 3 exist, centred: the bound is that of the 2 x 3 free dimensions."""
    noising, rows = Noising(200, target="v", variance="forward"), 3000
    exists = jnp.array([1.0, 1, 1, 0, 0])[:, None]

    def project(x):
        x = x * exists
        return (x - x.sum(1, keepdims=True) / 3) * exists

    x0 = 0.5 * project(jax.random.normal(jax.random.key(0), (rows, 5, 3)))
    keys = jax.random.split(jax.random.key(1), rows)
    noisy = optimal(noising, 0.0, 0.25)
    predict = lambda x_t, t: noisy(x_t, t) + 7.0  # noqa: E731  (a constant: projected away)
    found = diffusion.bound_terms(predict, x0, keys, noising, project=project, dims_B=6.0)
    total = jnp.stack(list(found.values())).sum(0) / 6
    assert float(total.mean()) == pytest.approx(
        sum(bound(noising, 0.0, 0.25)), abs=4 * float(total.std()) / math.sqrt(rows)
    )


@pytest.mark.parametrize("sigma", [0.001, 0.02, 0.5])
def test_the_decoder_of_grey_levels_is_a_distribution_with_exact_masses(sigma):
    values = np.linspace(-1, 1, 256)
    for mean in (-1.0, -0.31, 0.0, 0.999):
        logs = diffusion.binned_log_mass(jnp.array(values, jnp.float32), jnp.float32(mean), sigma, 2 / 255)
        assert float(jnp.exp(logs).sum()) == pytest.approx(1, abs=2e-4)
        edges = np.concatenate([[-np.inf], (values[1:] + values[:-1]) / 2, [np.inf]])
        low, high = (edges[:-1] - mean) / sigma, (edges[1:] - mean) / sigma
        flip = low > 0
        low, high = np.where(flip, -high, low), np.where(flip, -low, high)
        top, bottom = stats.norm.logcdf(high), stats.norm.logcdf(low)
        with np.errstate(divide="ignore"):
            wanted = top + np.log1p(-np.exp(bottom - top))
        np.testing.assert_allclose(logs, wanted, rtol=3e-3, atol=3e-3)


def test_schedules_that_make_no_sense_are_refused():
    with pytest.raises(BadInput, match=r"0 < first <= last < 1"):
        resolve(Noising, {"schedule": "linear", "beta_first": 0.1, "beta_last": 0.02})
    with pytest.raises(BadInput, match=r"config.steps=1 must be between 2"):
        resolve(Noising, {"steps": 1})
