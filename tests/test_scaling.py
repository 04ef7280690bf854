"""Scaling laws against curves whose exponents are known, and the intervals against their own promise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import zeta

from collapse_jax.config import BadInput
from collapse_jax.measures import scaling
from collapse_jax.measures.stats import Estimate

SIZES_N = np.geomspace(1e2, 1e6, 9)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.05, 1.5), st.floats(-3, 3), st.floats(0, 0.9))
def test_exact_curves_give_their_exponent_and_plateau(c, log_scale, share):
    scale = 10.0**log_scale
    losses_N = scale * SIZES_N**-c
    law = scaling.clean(SIZES_N, losses_N)
    np.testing.assert_allclose([law.scale, law.exponent], [scale, c], rtol=1e-8)
    plateau = share * losses_N[4]
    law = scaling.double(SIZES_N, losses_N + plateau)
    np.testing.assert_allclose([law.exponent, law.scale], [c, scale], rtol=1e-4)
    np.testing.assert_allclose(law.plateau, plateau, rtol=1e-4, atol=1e-4 * losses_N[-1])
    np.testing.assert_allclose(law(SIZES_N), losses_N + plateau, rtol=1e-5)


def test_clean_is_the_regression_line():
    losses_N = 2 * SIZES_N**-0.4 * np.exp(np.random.default_rng(0).normal(0, 0.2, 9))
    slope, intercept = np.polyfit(np.log(SIZES_N), np.log(losses_N), 1)
    law = scaling.clean(SIZES_N, losses_N)
    np.testing.assert_allclose([law.exponent, np.log(law.scale)], [-slope, intercept])
    residual_N = intercept + slope * np.log(SIZES_N) - np.log(losses_N)
    np.testing.assert_allclose(law.error, np.sqrt(np.mean(residual_N**2)))


def test_finite_source_leaves_the_plateau_of_its_rows():
    """Hutter's memoriser on a finite source of T0 rows: a (T^-c + T0^-c)."""
    law = scaling.double(SIZES_N, 3 * (SIZES_N**-0.4 + 5000**-0.4))
    assert law.source_rows == pytest.approx(5000, rel=1e-3)
    assert scaling.clean(SIZES_N, 3 * SIZES_N**-0.4).source_rows == np.inf


def test_triplet_separates_size_and_width():
    t_N, d_N = (a.ravel() for a in np.meshgrid(SIZES_N, [8.0, 32, 128, 512]))
    losses_N = 2 * t_N**-0.4 + 0.8 * d_N**-0.6 + 0.01
    law = scaling.triplet(t_N, d_N, losses_N)
    found = [law.scale, law.exponent, law.width_scale, law.width_exponent, law.plateau]
    np.testing.assert_allclose(found, [2, 0.4, 0.8, 0.6, 0.01], rtol=1e-3)
    np.testing.assert_allclose(law(t_N, d_N), losses_N, rtol=1e-5)


def test_mixing_fits_the_memorisers_exact_sum():
    """sum_i p_i (1 - pi p_i - (1 - pi) q_i)^T for p_i ~ i^-1.5 and q cut at rank 1000."""
    beta, cut, real, ranks = 1.5, 1000, 0.01, 1_000_000
    p_I = np.arange(1, ranks + 1.0) ** -beta / zeta(beta)
    q_I = np.where(np.arange(ranks) < cut, p_I, 0)
    miss_I = np.log1p(-(real * p_I + (1 - real) * q_I / q_I.sum()))
    rest = ranks ** (1 - beta) / (beta - 1) / zeta(beta)
    sizes_N = np.geomspace(1e2, 3e6, 13)
    losses_N = np.array([(p_I * np.exp(t * miss_I)).sum() + rest for t in sizes_N])
    for law in (scaling.mixing(sizes_N, losses_N), scaling.mixing(sizes_N, losses_N, real=real)):
        assert law.error < 0.01
        assert law.exponent == pytest.approx(1 - 1 / beta, abs=0.01)
        assert law.real == pytest.approx(real, rel=0.05)
        assert law.cut == pytest.approx(p_I[cut], rel=0.05)
        assert law.plateau == pytest.approx(p_I[cut:].sum() + rest, rel=0.03)
        np.testing.assert_allclose(law(sizes_N), losses_N, rtol=0.02)


def _noisy(rng, seeds, exponent=0.4, plateau=0.0):
    return (2 * SIZES_N**-exponent + plateau) * np.exp(rng.normal(0, 0.1, (seeds, len(SIZES_N))))


@pytest.mark.parametrize("seeds", [1, 3])
def test_intervals_cover_the_exponent(seeds):
    rng = np.random.default_rng(1)
    trials, inside = 150, 0
    for _ in range(trials):
        x = scaling.fit(scaling.clean, SIZES_N, _noisy(rng, seeds), rng, resamples=150).intervals["exponent"]
        inside += x.low <= 0.4 <= x.high
    assert stats.binomtest(inside, trials, 0.95).pvalue > 1e-4, inside / trials


@pytest.mark.parametrize("n", [3, 5, 30])
def test_percentiles_of_a_mean_are_students(n):
    """The bootstrap mean of n normal values has variance (n - 1) / n of the unbiased one: the interval is t's."""
    spread = np.sqrt((n - 1) / n)
    draws_R = stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000) * spread
    x = scaling._percentiles(draws_R, 0.0, (n - 1, n), 0.95)
    np.testing.assert_allclose([x.low, x.high], np.array([-1, 1]) * stats.t.ppf(0.975, n - 1), rtol=1e-3)


def test_plateau_has_an_interval():
    rng = np.random.default_rng(2)
    x = scaling.fit(scaling.double, SIZES_N, _noisy(rng, 5, 0.4, 0.2), rng, resamples=60).intervals
    assert x["plateau"].low < 0.2 < x["plateau"].high < 0.4
    assert x["exponent"].low < x["exponent"].value < x["exponent"].high


def test_change_of_scaling_law():
    rng = np.random.default_rng(3)
    a, b = _noisy(rng, 6, 0.5), _noisy(rng, 6, 0.3)
    found = scaling.change(scaling.clean, SIZES_N, a, b, rng)
    assert found.exponent.low < -0.2 < found.exponent.high < 0
    same = scaling.change(scaling.clean, SIZES_N, a, 3 * a, rng, paired=True)
    np.testing.assert_allclose([same.exponent.low, same.exponent.high], 0, atol=1e-9)
    apart = scaling.change(scaling.clean, SIZES_N, a, 3 * a, rng)
    assert apart.exponent.low < -1e-3 < 1e-3 < apart.exponent.high


def test_exponent_change_from_ratios():
    rng = np.random.default_rng(4)
    seeds, trials, inside = 5, 400, 0
    for _ in range(trials):
        logs_SN = rng.normal(0, 0.1, (seeds, 4)) + 0.2 * np.log(SIZES_N[:4])
        ratios = [Estimate(np.exp(x.mean()), 0, np.exp(x.mean()) * stats.sem(x), seeds) for x in logs_SN.T]
        x = scaling.exponent_change(SIZES_N[:4], ratios)
        inside += x.low <= 0.2 <= x.high
    assert stats.binomtest(inside, trials, 0.95).pvalue > 1e-4, inside / trials
    exact = [Estimate(float(t**0.2), 0, 0, 3) for t in SIZES_N]
    assert scaling.exponent_change(SIZES_N, exact).mean == pytest.approx(0.2)


@pytest.mark.parametrize(
    "sizes, losses, told",
    [
        ([1, 2], [1, 2, 3], "same length"),
        ([1, 2, 3], [1, 0, 1], "above 0"),
        ([1, 2, np.nan], [1, 1, 1], "finite"),
        ([1, 2], [1, 1], "too few"),
        ([5, 5, 5], [1, 1, 1], "too few"),
    ],
)
def test_bad_curves_are_refused(sizes, losses, told):
    with pytest.raises(BadInput, match=told):
        scaling.double(np.array(sizes, float), np.array(losses, float))


def test_a_share_of_real_rows_is_a_share():
    with pytest.raises(BadInput, match="share"):
        scaling.mixing(SIZES_N, SIZES_N**-0.5, real=1.5)
