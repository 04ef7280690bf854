"""The memoriser of Zipf facts: exhaustive enumeration, slow loops, and the laws of A Tale of Tails."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form_oracle import assert_follows, workflow
from scipy.special import zeta

from collapse_jax.closed_form import engine, hutter
from collapse_jax.closed_form.hutter import Hutter
from collapse_jax.workflows import Arm

MIX = Arm("table", table=((1,), (0.25, 0.75), (0.5, 1, 2)))


def enumerate_chain(family: Hutter, rows: int, generations: int) -> np.ndarray:
    """E test_loss by going through every sequence of samples."""
    p = family.probabilities()
    states, out = {(): 1.0}, []
    for t in range(generations):
        new: dict = {}
        for state, chance in states.items():
            counts = np.bincount(state, minlength=len(p)).astype(float)
            law = p if t == 0 else family.sampled(p if family.teacher == "perfect" else counts)
            for drawn in itertools.product(range(len(p)), repeat=rows):
                weight = chance * np.prod(law[list(drawn)])
                if weight:
                    key = tuple(sorted(drawn))
                    new[key] = new.get(key, 0.0) + weight
        states = new
        out.append(sum(c * p[[i not in s for i in range(len(p))]].sum() for s, c in states.items()))
    return np.array(out)


@pytest.mark.parametrize(
    "family",
    [Hutter(symbols=4), Hutter(symbols=4, teacher="perfect", top_p=0.7, tail_share=0.3, tail_start=3)],
)
def test_prediction_is_the_sum_over_every_sample(family):
    found = family.predict(workflow("replace", 4, 3))["test_loss"]
    assert found.exact
    np.testing.assert_allclose(found.values, enumerate_chain(family, 4, 3), rtol=1e-10)


def test_samplers():
    """Rank cut, top-p and temperature by hand, on weights in no order; a lost symbol stays lost."""
    weights = np.array([0.1, 0.5, 0.0, 0.15, 0.25])

    def law(**settings: Any) -> Any:
        return Hutter(symbols=5, **settings).sampled(weights)

    np.testing.assert_allclose(law(), weights)
    np.testing.assert_allclose(law(rank_cut=2), np.array([1, 5, 0, 0, 0]) / 6)
    np.testing.assert_allclose(law(top_p=0.75), np.array([0, 2, 0, 0, 1]) / 3)
    np.testing.assert_allclose(law(top_p=0.76), np.array([0, 0.5, 0, 0.15, 0.25]) / 0.9)
    np.testing.assert_allclose(law(temperature=0.5), weights**2 / (weights**2).sum())
    band = np.where(np.arange(5) >= 3, hutter.zipf(1.5, 5), 0)
    np.testing.assert_allclose(law(tail_share=0.2, tail_start=4), 0.8 * weights + 0.2 * band / band.sum())
    some: Any = ({"top_p": 0.6}, {"temperature": 0.3}, {"rank_cut": 3})
    for settings in some:
        np.testing.assert_allclose(
            Hutter(symbols=5, **settings).sampled(jnp.asarray(weights)), law(**settings), rtol=2e-6
        )
    family = Hutter(symbols=5)
    drawn = family.draw(jnp.ones(5), jnp.asarray(weights), jax.random.key(0), 20_000)
    shares = np.bincount(np.asarray(drawn), minlength=5) / 20_000
    np.testing.assert_allclose(shares, weights, atol=0.015)
    assert shares[2] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "arm"),
    [
        (Hutter(symbols=200), "replace"),
        (Hutter(symbols=200), "accumulate"),
        (Hutter(symbols=200, teacher="perfect", rank_cut=30), MIX),
        (Hutter(symbols=200, teacher="perfect", temperature=0.7, tail_share=0.1, tail_start=40), "replace"),
    ],
)
def test_simulation_follows_the_prediction(family, arm):
    assert_follows(family, workflow(arm, 100, 3), 2000, ("test_loss", "survivors"))


def test_real_rows_that_stay_are_never_forgotten():
    found = engine.collect(Hutter(symbols=100), workflow("accumulate", 50, 6), 20)["test_loss"]
    assert (np.diff(found, axis=1) == 0).all() and found.mean() > 0.01


def test_streaming_equals_the_pool():
    table = workflow("augment", 40, 3)
    a, b = (engine.collect(Hutter(symbols=60, top_p=0.9), table, 10, how=how) for how in ("pool", "rows"))
    np.testing.assert_array_equal(a["test_loss"], b["test_loss"])


def test_survival_of_a_branching_process():
    """Equal sizes are the published recursion; unequal ones against a simulated Poisson cascade."""
    g = [1.0]
    for _ in range(200):
        g.append(-np.expm1(-g[-1]))
    np.testing.assert_allclose(hutter.survival([7] * 201), g)
    assert 201 * g[-1] == pytest.approx(2, rel=0.03)
    generator, sizes = np.random.default_rng(0), [100, 300, 50]
    counts = generator.poisson(1.5, 400_000)
    for before, after in itertools.pairwise(sizes):
        counts = generator.poisson(counts * after / before)
    law = np.exp(-1.5 * hutter.survival(sizes)[-1])
    assert abs((counts == 0).mean() - law) < 4 * np.sqrt(law * (1 - law) / 400_000)


def test_the_poisson_limit_is_the_chain_of_many_rows():
    """n-fold generations, n = 2000 rows: within 1 % of the exact Wright-Fisher sums."""
    family, table = Hutter(symbols=3000), workflow("replace", 2000, 6)
    exact = family.predict(table)["test_loss"]
    limit = np.exp(-2000 * np.outer(hutter.survival([2000] * 6), family.probabilities()))
    assert exact.exact
    np.testing.assert_allclose(exact.values, limit @ family.probabilities(), rtol=0.01)
    assert not family.predict(workflow("replace", 4000, 2))["test_loss"].exact


# Published and derived values of the deterministic sums.


@pytest.mark.parametrize("exponent", [1.5, 2.0])
def test_clean_scaling_law_with_its_constant(exponent):
    """E ~ T^-c: the exact sum over its power law is 0.9996 to 1.0000 for T = 1e3 to 1e5."""
    for rows in (1e3, 1e4, 1e5):
        ratio = hutter.endless_loss(exponent, rows) / hutter.clean_law(exponent, rows)
        assert 0.9996 < ratio < 1.0001


def test_endless_sums_do_not_depend_on_where_they_end():
    a, b = (hutter.endless_loss(1.5, 1e4, terms=n) for n in (20_000, 2_000_000))
    assert a == pytest.approx(b, rel=1e-6)
    a, b = (hutter.endless_loss(1.5, 1e4, cut=100, terms=n) for n in (200, 2_000_000))
    assert a == pytest.approx(b, rel=1e-9)


def test_a_cut_tail_is_a_plateau():
    """k^(1-beta) / ((beta-1) Z) to 0.25 % at k = 100 and 0.03 % at 1000; reached from T = k^beta on."""
    for cut, tolerance in ((100, 0.0026), (1000, 0.0003)):
        form = cut**-0.5 / (0.5 * zeta(1.5))
        assert hutter.plateau(1.5, cut) == pytest.approx(form, rel=tolerance)
        assert hutter.endless_loss(1.5, 100 * cut**1.5, cut=cut) == pytest.approx(form, rel=0.02)
    brute = sum(hutter.zipf(1.5, 100_000)[50:])
    assert hutter.plateau(1.5, 50) - hutter.plateau(1.5, 100_000) == pytest.approx(
        brute * (1 - hutter.plateau(1.5, 100_000))
    )


def test_narrowing_changes_the_exponent():
    """beta = 1.5, beta' = 1.95: slope -(beta - 1)/beta' = -.25641, measured -.25638; the constant holds too."""
    p, q = hutter.zipf(1.5, 4_000_000), hutter.zipf(1.95, 4_000_000)
    rest = hutter.plateau(1.5, 4_000_000)
    loss = [p @ hutter.absence([(q, rows)]) * (1 - rest) + rest for rows in (1e4, 1e5)]
    assert np.log10(loss[1] / loss[0]) == pytest.approx(-0.5 / 1.95, abs=2e-4)
    assert loss[0] == pytest.approx(hutter.narrow_law(1.5, 1.95, 1e4), rel=2e-3)


def test_generations_cost_sublinearly():
    """n-fold loss over the first: g_n^-c = 1.165, 1.474, 1.797, 2.218 for n = 2, 5, 10, 20 (to 1 %)."""
    p = hutter.zipf(1.5, 1_000_000)
    g = hutter.survival([10_000] * 20)
    loss = np.exp(-10_000 * np.outer(g[[0, 1, 4, 9, 19]], p)) @ p
    published = np.array([1.165, 1.474, 1.797, 2.218])
    np.testing.assert_allclose(g[[1, 4, 9, 19]] ** (-1 / 3), published, rtol=1e-3)
    np.testing.assert_allclose(loss[1:] / loss[0], published, rtol=0.015)


def test_mixing_shows_a_plateau_and_then_grokking():
    """beta = 1.5, k = 1000, one real row in a hundred: .0316, .0240, .0235, .0188, .00942; the cut alone .0242.

    The late branch is (share T)^-c with its constant.
    """
    symbols, share = 3_000_000, 0.01
    p, rest = hutter.zipf(1.5, symbols), hutter.plateau(1.5, symbols)
    q = Hutter(symbols=symbols, rank_cut=1000).sampled(p)
    published = {3e4: 0.0316, 3e5: 0.0240, 1e6: 0.0235, 1e7: 0.0188, 1e8: 0.00942}
    for rows, value in published.items():
        # Facts beyond the three millionth are hardly ever met.
        loss = p @ hutter.absence([(share * p + (1 - share) * q, rows)]) * (1 - rest) + rest
        assert loss == pytest.approx(value, rel=0.02 if rows < 1e5 else 0.003), rows
    assert loss == pytest.approx(hutter.clean_law(1.5, share * 1e8), rel=0.001)
    assert hutter.endless_loss(1.5, 1e8, cut=1000) == pytest.approx(0.0242, rel=0.01)


def test_tail_rows_help_only_near_the_cut():
    """Rows from rank 101 lift a cut at 100; rows from rank 1001 leave the gap between as a floor."""
    families = [
        Hutter(exponent=1.5, symbols=20_000, teacher="perfect", rank_cut=100, tail_share=s, tail_start=n)
        for s, n in ((0.0, 1), (0.1, 101), (0.1, 1001))
    ]
    table = workflow(Arm("table", table=((1,), (0, 1))), 200_000, 2)
    cut, near, deep = (f.predict(table)["test_loss"].values[1] for f in families)
    p = families[0].probabilities()
    assert near < 0.3 * cut
    assert p[100:1000].sum() < deep < 1.1 * p[100:1000].sum() and deep > 4 * near
    floor = hutter.deep_tail_floor(1.5, 100, 1001)
    assert floor == pytest.approx(p[100:1000].sum() * (1 - hutter.plateau(1.5, 20_000)), rel=1e-9)
    assert hutter.deep_tail_floor(1.5, 100, 50) == 0


def test_bad_settings_get_a_line():
    lines = list(Hutter(symbols=10, temperature=0.0, top_p=1.5, rank_cut=11, tail_start=12).problems())
    assert len(lines) == 4 and all("\n" not in line for line in lines)
