"""Samplers against the exact law and the exact flow of Gaussian data, and against a plain loop."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian_oracle import law_of_samples, optimal, reverse_step

from collapse_jax.models.diffusion import TARGETS, Level, Noising, alpha_bars, split
from collapse_jax.sampling.denoise import Denoising, denoise, problems, start, times

MEAN, VARIANCE, ROWS = 0.3, 0.25, 4000
KEYS = jax.random.split(jax.random.key(0), ROWS)


def run(noising, denoising, x_T, keys=KEYS, mean=MEAN, variance=VARIANCE, **options):
    predict = optimal(noising, mean, variance)
    draw = jax.jit(lambda x, keys: denoise(predict, x, keys, noising, denoising, **options))
    return np.asarray(draw(x_T, keys))


@pytest.mark.parametrize(
    ("target", "variance"), [("epsilon", "posterior"), ("v", "forward"), ("x0", "forward")]
)
def test_ancestral_sampling_has_the_exact_law(target, variance):
    noising = Noising(200, target=target, variance=variance)
    drawn = run(noising, Denoising(), start(KEYS, (4,))).ravel()
    mean, spread = law_of_samples(noising, MEAN, VARIANCE)
    assert drawn.mean() == pytest.approx(mean, abs=4 * math.sqrt(spread / drawn.size))
    assert drawn.var() == pytest.approx(spread, rel=4 * math.sqrt(2 / drawn.size))


def test_the_law_of_samples_becomes_that_of_the_data():
    for variance, sign in (("posterior", -1), ("forward", 1)):
        gaps = []
        for steps in (50, 500, 5000):
            mean, spread = law_of_samples(Noising(steps, variance=variance), MEAN, VARIANCE)
            assert mean == pytest.approx(MEAN, abs=1e-3)
            gaps.append(sign * (spread - VARIANCE))
        assert gaps[0] > 4 * gaps[1] > 16 * gaps[2] > 0


@pytest.mark.parametrize(
    ("sampler", "variance", "steps", "eta"),
    [
        ("ancestral", "posterior", 0, 0.0),
        ("ancestral", "forward", 0, 0.0),
        ("ancestral", "posterior", 7, 0.0),
        ("ddim", "posterior", 7, 1.0),
        ("ddim", "posterior", 0, 0.0),
    ],
)
def test_steps_are_those_of_a_plain_loop_over_the_posterior_mean(sampler, variance, steps, eta):
    noising = Noising(20, "linear", 1e-3, 0.4, target="x0", variance=variance)
    denoising = Denoising(sampler, steps, eta)
    predict, keys = optimal(noising, MEAN, VARIANCE), KEYS[:5]
    x_T = start(keys, (2, 3))
    np.testing.assert_array_equal(x_T[2], jax.random.normal(jax.random.fold_in(keys[2], 0), (2, 3)))
    x, visited = np.asarray(x_T, np.float64), times(noising, denoising)
    for t, s in itertools.pairwise(visited):
        noise = [jax.random.normal(jax.random.fold_in(key, t), (2, 3)) for key in keys]
        of_x0, of_xt, posterior, forward = reverse_step(noising, t, s)
        x0 = np.asarray(predict(jnp.float32(x), jnp.int32(t)), np.float64)
        if eta or sampler == "ancestral":
            spread = {"posterior": posterior, "forward": forward if s else 0}[variance]
            x = of_x0 * x0 + of_xt * x + math.sqrt(spread) * np.array(noise)
        else:
            bars = alpha_bars(noising)
            x = math.sqrt(bars[s]) * x0 + math.sqrt((1 - bars[s]) / (1 - bars[t])) * (
                x - math.sqrt(bars[t]) * x0
            )
    np.testing.assert_allclose(run(noising, denoising, x_T, keys), x, atol=2e-5)


def flow(noising, x, end):
    """The exact probability flow from T to time `end`: standardised data stay where they are."""
    bars = alpha_bars(noising)
    place = lambda t: (math.sqrt(bars[t]) * MEAN, math.sqrt(bars[t] * VARIANCE + 1 - bars[t]))  # noqa: E731
    (mean_T, std_T), (mean, std) = place(noising.steps), place(end)
    return mean + std * (x - mean_T) / std_T


@pytest.mark.parametrize("target", TARGETS)
def test_heun_is_of_second_order(target):
    noising = Noising(1025, target=target)
    x_T = np.linspace(-2, 2, 9, dtype=np.float32)[:, None]
    at_one = jnp.asarray(flow(noising, x_T, 1), jnp.float32)
    level = Level(math.sqrt(alpha_bars(noising)[1]), math.sqrt(1 - alpha_bars(noising)[1]))
    output = optimal(noising, MEAN, VARIANCE)(at_one, jnp.int32(1))
    exact, _ = split(output, at_one, level, target)
    errors = [
        np.abs(run(noising, Denoising("heun", steps), x_T, KEYS[:9]) - exact).max() for steps in (8, 16, 32)
    ]
    assert 3.3 < errors[0] / errors[1] < 4.7 and 3.3 < errors[1] / errors[2] < 4.7
    assert errors[2] < 2e-3


def test_ddim_is_of_first_order_and_less_exact():
    noising = Noising(1024, target="v")
    x_T = np.linspace(-2, 2, 9, dtype=np.float32)[:, None]
    exact = flow(noising, x_T, 0)
    errors = [
        np.abs(run(noising, Denoising("ddim", steps), x_T, KEYS[:9]) - exact).max() for steps in (16, 32, 64)
    ]
    assert 1.7 < errors[0] / errors[1] < 2.3 and 1.7 < errors[1] / errors[2] < 2.3
    heun = np.abs(run(noising, Denoising("heun", 16), x_T, KEYS[:9]) - exact).max()
    assert heun < 0.5 * errors[1]  # at as many network evaluations


@pytest.mark.parametrize("sampler", ["ancestral", "heun"])
def test_rows_do_not_know_of_each_other(sampler):
    noising, denoising = Noising(30, target="v"), Denoising(sampler, 10)
    whole = run(noising, denoising, start(KEYS[:8], (3,)), KEYS[:8])
    picked = KEYS[jnp.array([6, 2])]
    np.testing.assert_allclose(
        run(noising, denoising, start(picked, (3,)), picked), whole[[6, 2]], rtol=1e-5, atol=1e-6
    )


def test_rows_stay_in_their_subspace_and_within_their_limit():
    centred = lambda x: x - x.mean(1, keepdims=True)  # noqa: E731
    noising = Noising(50, target="epsilon")
    predict = lambda x, t: optimal(noising, 0.0, 0.25)(x, t) + 3.0  # noqa: E731
    x_T = start(KEYS[:64], (4, 3), centred)
    x = denoise(predict, x_T, KEYS[:64], noising, Denoising(), project=centred)
    np.testing.assert_allclose(x.mean(1), 0, atol=1e-5)
    assert 0.1 < float(x.std()) < 0.6
    bounded = run(noising, Denoising(), 3 * start(KEYS[:64], (5,)), KEYS[:64], variance=1.0, limit=0.5)
    assert np.abs(bounded).max() <= 0.5 and np.mean(np.abs(bounded) == 0.5) > 0.1


def test_the_times_visited():
    noising = Noising(10)
    assert times(noising, Denoising()).tolist() == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert times(noising, Denoising(steps=5)).tolist() == [10, 8, 6, 4, 2, 0]
    assert times(noising, Denoising("heun", 3)).tolist() == [10, 7, 4, 1, 0]
    for sampler in ("ancestral", "ddim", "heun"):
        for steps in range(1, 10):
            found = times(noising, Denoising(sampler, steps))
            assert len(found) == steps + 1 + (sampler == "heun") and np.all(np.diff(found) < 0)
        assert not problems(noising, Denoising(sampler, 9))
    assert problems(noising, Denoising("heun", 10)) and not problems(noising, Denoising("ddim", 10))
    assert "sample.steps=11 exceeds the 10" in problems(noising, Denoising("ddim", 11))[0]
    assert dataclasses.replace(noising, steps=11) != noising
