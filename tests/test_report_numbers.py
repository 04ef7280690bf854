"""The numbers of the report against scipy, and where labels and ticks go."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from collapse_jax.measures.stats import Estimate, column_estimates, estimate, zscores
from collapse_jax.measures.verdicts import word
from collapse_jax.report import shows, style, words


@pytest.mark.parametrize("n", [2, 3, 10, 500])
def test_interval_is_scipys(n):
    values = np.random.default_rng(n).normal(3, 2, n)
    low, high = scipy_stats.t.interval(0.95, n - 1, values.mean(), scipy_stats.sem(values))
    found = estimate(values)
    wanted = [low, high, scipy_stats.sem(values)]
    np.testing.assert_allclose([found.low, found.high, found.se], wanted, rtol=1e-10)


def test_interval_leaves_out_what_is_not_finite():
    mean_G, half_G, se_G, n_G = column_estimates(np.array([[1.0, np.nan, np.nan], [3.0, 2.0, np.inf]]))
    np.testing.assert_array_equal(mean_G, [2, 2, np.nan])
    np.testing.assert_array_equal(n_G, [2, 1, 0])
    np.testing.assert_allclose(half_G, [12.7062047, np.nan, np.nan])
    np.testing.assert_array_equal(se_G, [1, np.nan, np.nan])


@pytest.mark.parametrize(
    "margin, mean, half, n, told",
    [
        (0.15, 0.8, 0.1, 2, "rises"),
        (0.15, -0.8, 0.1, 2, "falls"),
        (0.15, 0.03, 0.01, 2, "rises slightly"),
        (0.15, -0.04, 0.01, 2, "falls slightly"),
        (0.15, 0.02, 0.1, 2, "flat"),
        (0.15, 0.2, 0.5, 2, "undecided"),
        (0.0, 0.0, 0.0, 2, "flat"),
        (0.15, 0.2, math.nan, 1, "up (one seed)"),
        (0.15, 1e200, math.nan, 30, "undecided"),
        (0.15, 1e200, math.inf, 30, "undecided"),
    ],
)
def test_the_word_for_a_change(margin, mean, half, n, told):
    assert word(Estimate(mean, half, half, n), margin) == told


def test_squares_that_overflow_have_an_error():
    values_SG = np.random.default_rng(0).normal(3, 1, (30, 2))
    plain, far = column_estimates(values_SG), column_estimates(values_SG * [2.0**700, 2.0**-700])
    for a, b in zip(plain[:3], far[:3], strict=True):
        np.testing.assert_array_equal(a * [2.0**700, 2.0**-700], b)


def test_zscores():
    z_G = zscores(np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.0, np.nan]), np.array([2.0, 2.0, 3.0]))
    np.testing.assert_array_equal(z_G, [-2, np.nan, np.nan])


def test_rounding_is_no_spread():
    """Seeds that agree to rounding cannot weigh a law, e.g. when a rare event fell in none of them."""
    z = zscores(np.array([2.0, 2.0]), np.array([1e-12, 1e-3]), np.array([2.1, 2.001]))
    assert np.isnan(z[0]) and z[1] == pytest.approx(-1.0)


def test_numbers_carry_the_digits_of_their_uncertainty():
    assert words.plus_minus(0.83211, 0.0512) == "0.832 ± 0.051"
    assert words.plus_minus(-12.34, 3.2, sign=True) == "−12.3 ± 3.2"
    assert words.plus_minus(4.0, math.nan) == "4.000"
    assert words.plus_minus(0.0, 0.0) == "0 ± 0"
    assert words.plus_minus(2e7, 3e5) == "2.00e+07 ± 3.0e+05"
    assert words.number(math.inf) == "∞" and words.number(math.nan) == "n/a"


def test_spread_keeps_the_gap_and_moves_as_little_as_it_can():
    wanted = [0.5, 0.1, 0.52, 0.51, 0.99, 1.0]
    places = style.spread(wanted, 0.1, 0.0, 1.0)
    order = np.argsort(wanted)
    assert (np.diff(np.array(places)[order]) >= 0.1 - 1e-9).all()
    assert min(places) >= 0 and max(places) <= 1 + 1e-9
    assert places[1] == 0.1
    np.testing.assert_allclose(np.mean([places[i] for i in (0, 2, 3)]), 0.51)


@pytest.mark.parametrize("last", [1, 2, 5, 13, 50, 100, 1000])
def test_ticks_are_whole_generations(last):
    ticks = style.whole_ticks(1, last, 10)
    assert ticks[0] == 1 and ticks[-1] <= last and len(ticks) <= 11
    assert ticks == sorted(set(ticks)) and all(isinstance(t, int) for t in ticks)


def test_looks_do_not_depend_on_the_other_arms_for_known_workflows():
    one = style.looks({"x": {"workflow": "accumulate"}})["x"]
    assert style.looks({"y": {"workflow": "replace"}, "x": {"workflow": "accumulate"}})["x"] == one
    many = style.looks({f"arm {i}": {} for i in range(30)})
    assert len({(x.colour, x.marker, x.dash) for x in many.values()}) == 30


def test_spaced_generations():
    assert shows.spaced(5, 8) == [1, 2, 3, 4, 5]
    picked = shows.spaced(50, 8)
    assert picked[0] == 1 and picked[-1] == 50 and len(picked) <= 8 and picked == sorted(set(picked))
