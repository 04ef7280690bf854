"""How often verdicts are right: on simulated chains with a known answer, and one logic wherever they are told."""

import json
from typing import Any

import numpy as np
import pytest
from scipy import stats

from collapse_jax.closed_form import families, moments
from collapse_jax.closed_form.gaussian import Gaussian
from collapse_jax.closed_form.regression import Regression
from collapse_jax.measures import scaling, series
from collapse_jax.measures.definitions import judge
from collapse_jax.measures.evidence import BOUNDED, Thresholds
from collapse_jax.measures.series import Curve, Quantity
from collapse_jax.measures.stats import Estimate, column_estimates
from collapse_jax.measures.verdicts import NO, TOO_FEW, UNDECIDED, YES, trend
from collapse_jax.workflows import Arm, Workflow

LOSS = Quantity("test_loss", "nats/token", "real_test")
T = np.arange(1.0, 13.0)
CHAINS = 120


def curve(values_SG):
    """A curve of these values, generations from 1."""
    seeds, columns = np.shape(values_SG)
    nan_G, yes_G = np.full(columns, np.nan), np.ones(columns, bool)
    summary: tuple[Any, ...] = (*column_estimates(values_SG), nan_G, yes_G, yes_G, ~yes_G)
    gone_SG = np.zeros((seeds, columns), bool)
    return Curve(np.arange(1, columns + 1), tuple(range(seeds)), values_SG, gone_SG, *summary)


def errors(kind, rng, shape):
    """[..., seeds, generations] of variance 1 in the first generation."""
    e = rng.normal(size=shape)
    if kind == "an offset of each seed":
        return np.sqrt(0.2) * e + np.sqrt(0.8) * rng.normal(size=(*shape[:-1], 1))
    return {"independent": e, "random walk": e.cumsum(-1), "growing": e * np.linspace(1, 3, shape[-1])}[kind]


def chains(mean_G, kind, seeds, noise=0.01, count=CHAINS):
    """`count` arms of `seeds` chains around 3 times the mean, errors of `noise` times 3."""
    rng = np.random.default_rng([seeds, len(kind)])
    values_CSG = 3 * (mean_G + noise * errors(kind, rng, (count, seeds, len(mean_G))))
    return {f"arm{i}": curve(x_SG) for i, x_SG in enumerate(values_CSG)}


def share(findings, verdict):
    return np.mean([f.verdict == verdict for f in findings])


@pytest.mark.parametrize("seeds", [2, 3, 5, 20])
@pytest.mark.parametrize("kind", ["independent", "an offset of each seed", "random walk", "growing"])
def test_flat_chains(kind, seeds):
    """At most 5 % are called an increase, whatever the errors of a chain share; 95 % intervals hold 0."""
    by_arm = chains(np.ones(12), kind, seeds)
    found = judge({LOSS: by_arm})
    for k, most in ((1, 0.0), (2, 0.05), (3, 0.05)):
        called = sum(f[k - 1].verdict == YES for f in found.values())
        assert called <= stats.binom.ppf(0.999, CHAINS, most), k
    ends = [trend(c, LOSS.unit).change for c in by_arm.values()], [f[1].interval for f in found.values()]
    for intervals in (*ends, [f[2].interval for f in found.values()]):
        inside = sum(x.low <= 0 <= x.high for x in intervals)
        assert stats.binom.ppf(0.001, CHAINS, 0.95) <= inside, inside
    if seeds >= 5 and kind in ("independent", "an offset of each seed"):
        assert share([f[1] for f in found.values()], NO) >= 0.8
        assert share([f[2] for f in found.values()], NO) >= 0.8
        assert np.mean([trend(c, LOSS.unit).word == "flat" for c in by_arm.values()]) >= 0.8


def test_a_rise_beyond_the_margin_is_rarely_denied():
    """In one generation in the middle, at a time when every other test says flat."""
    mean_G = np.where(T == 5, 1 + Thresholds().margin, 1.0)
    found = judge({LOSS: chains(mean_G, "independent", 5, count=300)})
    assert share([f[1] for f in found.values()], NO) <= stats.binom.ppf(0.999, 300, 0.025) / 300


SHAPES = [
    (0.03 * T, "independent", YES, "keeps 75% of its pace"),
    (0.01 * T**1.5, "random walk", YES, "keeps 75% of its pace"),
    (0.2 * np.sqrt(T), "independent", UNDECIDED, "may still saturate: a rise of less than"),
    (0.6 - 0.6 * np.exp(-T / 12), "independent", UNDECIDED, "may still saturate: a rise of less than"),
    (0.1 * np.log(T), "independent", UNDECIDED, ""),
    (0.5 * np.cumsum(T**-2.0), "independent", NO, "slower than log t"),
    (0.2 * (T > 1), "independent", NO, "since generation 2"),
    (-0.02 * np.log(T), "independent", NO, ""),
]


@pytest.mark.parametrize("extra_G, kind, verdict, told", SHAPES)
def test_divergence_by_shape(extra_G, kind, verdict, told):
    findings = [f[2] for f in judge({LOSS: chains(1 + extra_G, kind, 5, 0.005, 40)}).values()]
    assert share(findings, verdict) >= 0.8
    assert all(told in f.how for f in findings if f.verdict == verdict)


@pytest.mark.parametrize("unit", BOUNDED)
def test_what_is_bounded_does_not_diverge(unit):
    by_arm = chains(1 + 0.03 * T, "independent", 5, count=1)
    ((f,),) = ([x[2]] for x in judge({LOSS._replace(unit=unit): by_arm}).values())
    assert f.verdict == NO and unit in f.how


def test_one_logic_for_headline_and_profile():
    """Whatever the headline says of a chain no definition denies, and the other way round."""
    rng = np.random.default_rng(0)
    seen = set()
    for unit in ("nats/token", "nats/row", "squared error"):
        size = {"nats/token": 3, "nats/row": 60}.get(unit, 0.1)
        for _ in range(150):
            shape_G = rng.choice([0, 0.02, 0.1, 1.0]) * rng.normal(size=6).cumsum()
            spread = rng.choice([0.001, 0.01, 0.05])
            values_SG = size * (1 + np.abs(shape_G) + spread * rng.normal(size=(rng.integers(1, 6), 6)))
            x = curve(values_SG)
            word, found = trend(x, unit).word, judge({LOSS._replace(unit=unit): {"a": x}})["a"]
            one, two, three = (f.verdict for f in found[:3])
            seen |= {(word, two), (one, two), (three, two)}
            assert not word.startswith("rises") or two == YES, word
            assert two != NO or (one == NO and three != YES), found
            assert one != YES or two == YES
            assert not word.startswith("flat") or one != YES
    assert {("rises", YES), ("flat", NO), (YES, YES), (NO, NO), (UNDECIDED, UNDECIDED)} <= seen


@pytest.mark.parametrize("seeds", [2, 3, 5, 20])
@pytest.mark.parametrize("noise_N", [(0.1, 0.1, 0.1, 0.1), (0.01, 0.02, 0.05, 0.5)], ids=["equal", "unequal"])
def test_exponent_changes_are_covered(seeds, noise_N):
    rng, sizes_N, trials = np.random.default_rng(seeds), np.geomspace(100, 3000, 4), 500
    inside = 0
    for logs_SN in rng.normal(0, noise_N, (trials, seeds, 4)) / 10 + 0.2 * np.log(sizes_N):
        ratios = [Estimate(np.exp(x.mean()), 0, np.exp(x.mean()) * stats.sem(x), seeds) for x in logs_SN.T]
        x = scaling.exponent_change(sizes_N, ratios)
        inside += x.low <= 0.2 <= x.high
    assert stats.binom.ppf(0.001, trials, 0.94) <= inside, inside / trials


def lines(metric, values_G, **more):
    """Means over 100 chains."""
    base = {
        "arm": "a",
        "seed": None,
        "generation_id": "x",
        "metric": metric,
        "unit": "1",
        "split": "population",
    }
    return [
        {
            **base,
            "generation": t,
            "value": float(v),
            "se": 0.001,
            "seeds": 100,
            "predicted": 2.0**t - 1,
            **more,
        }
        for t, v in enumerate(values_G, 1)
    ]


def test_a_tail_that_nobody_drew_is_left_to_the_law():
    records = lines("test_loss", np.ones(6), tail=True, exact=True, reliable=False)
    panels = series.curves(records)
    ((_, by_arm),) = panels.items()
    found = judge(panels)["a"]
    assert trend(by_arm["a"]).word == TOO_FEW
    assert [f.verdict for f in found[:2]] == [YES, YES] and found[0].interval.value == 63
    assert all("by its exact law: too few seeds for this tail" in f.how for f in found[:2])
    unknown = judge(series.curves(lines("test_loss", np.ones(6), tail=True, predicted=None)))["a"]
    assert [f.verdict for f in unknown[:3]] == [UNDECIDED] * 3 and TOO_FEW in unknown[0].how


@pytest.mark.parametrize("diverges, verdict", [(True, YES), (False, NO)])
def test_a_known_law_decides_divergence(diverges, verdict):
    records = lines("test_loss", 1 + np.log(T), diverges=diverges)
    found = judge(series.curves(json.loads(json.dumps(records))))["a"][2]
    assert found.verdict == verdict and "its law" in found.how


def test_values_of_seeds_stand_in_for_their_means():
    rng = np.random.default_rng(0)
    values_SG = 3 + rng.normal(0, 1, (100, 1)) + rng.normal(0, 0.01, (100, 6))
    records = lines("test_loss", values_SG.mean(0))
    ((_, by_arm),) = series.curves(records).items()
    paired = series.with_seeds(by_arm["a"], values_SG)
    wanted = stats.sem(values_SG[:, 5] - values_SG[:, 0])
    np.testing.assert_allclose(trend(paired).change.se, wanted)
    np.testing.assert_array_equal(paired.se_G, by_arm["a"].se_G)
    for other in (values_SG + 1, values_SG[:, :5], values_SG[:99], None):
        assert series.with_seeds(by_arm["a"], other) is by_arm["a"]
    lost = series.curves([{**r, "se": None} for r in records])
    far = series.with_seeds(next(iter(lost.values()))["a"], values_SG)
    np.testing.assert_allclose(far.se_G, stats.sem(values_SG))


def refitted(kind, n, rng, chains=60_000, generations=4):
    """Means and variances of a chain that replaces, [generations, chains], in NumPy."""
    mean, variance, out = np.zeros(chains), np.ones(chains), []
    for _ in range(generations):
        if kind == "exponential":
            mean = (1 + mean) * rng.gamma(n, 1 / n, chains) - 1
        else:
            mean = mean + np.sqrt(variance / n) * rng.normal(size=chains)
            variance = variance * rng.chisquare(n - 1, chains) / n
        out.append((mean, variance))
    return np.moveaxis(np.array(out), 1, 0)


@pytest.mark.parametrize("kind, n", [("exponential", 40), ("gaussian", 30)])
def test_the_spread_of_laws(kind, n):
    """Standard deviation over mean of one chain's value; that of W2 is a bound."""
    mean, variance = refitted(kind, n, np.random.default_rng(1))
    laws = families.kind(kind)().predict(Workflow(Arm("replace"), n, 4))
    error = "test_loss" if kind == "exponential" else "mean_error"
    exact = {error: mean**2}
    if kind == "gaussian":
        exact |= {"variance_ratio": variance, "std_ratio": np.sqrt(variance), "determinant_ratio": variance}
        x = mean**2 + (np.sqrt(variance) - 1) ** 2
        bound = laws["wasserstein2"].spread / (x.std(1) / x.mean(1))
        assert (bound > 1).all() and (bound < 2).all()
        fourth_G5 = Gaussian()._fourth(Workflow(Arm("replace"), n, 4))
        np.testing.assert_allclose(fourth_G5[:, [1, 3]], fourth_G5[:, [2, 4]])  # one dimension: tr S = S
    for metric, x in exact.items():
        np.testing.assert_allclose(laws[metric].spread, x.std(1) / x.mean(1), rtol=0.05, err_msg=metric)


def test_a_spread_beyond_all_numbers_is_infinite():
    law = families.kind("exponential")().predict(Workflow(Arm("replace"), 1, 400))["test_loss"]
    assert np.isinf(np.asarray(law.spread)[-1]) and not np.isnan(law.spread).any()


WALKS = {
    "replace": True,
    "replace_multiple": True,
    "window": True,
    "accumulate": False,
    "accumulate_subsample": False,
    "augment": False,
    "fresh": False,
}


@pytest.mark.parametrize("name", WALKS)
def test_which_refitted_means_walk_away(name):
    """Against the recursion at a hundred and at two hundred generations: a limit is all but reached, or is none."""
    flow = Workflow(Arm(name, window=2, fraction=0.5), 20, 200)
    center = moments.recursion(flow, lambda c, s, rows: 1.0).center
    assert moments.walks(flow) == (center[199] > center[99] * 1.05) == WALKS[name]
    law = Regression(dim=3).predict(Workflow(Arm("replace_multiple"), 20, 30))["test_loss"]
    assert law.diverges  # log t
