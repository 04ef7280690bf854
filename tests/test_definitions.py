"""Every verdict of every definition on records with a known answer."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from collapse_jax.closed_form import families
from collapse_jax.measures import changes, definitions, images, molecules, series, text
from collapse_jax.measures.definitions import NO, NOT_APPLICABLE, UNDECIDED, YES, profile
from collapse_jax.measures.evidence import EVIDENCE, NAMES, Thresholds, measured_as

JITTER = np.array([-1.0, 0.0, 1.0])


def records(metric, means_G, noise=0.01, unit="1", arm="a", seeds=3, split="real_test"):
    """`seeds` chains about the means: an offset of its own for every seed, noise for every generation after 1."""
    rng = np.random.default_rng(7)
    lines = []
    for s in range(seeds):
        for t, mean in enumerate(means_G, 1):
            value = (
                mean
                + noise * (0.5 * JITTER[s % 3] + 0.2 * rng.uniform(-1, 1)) * (t > 1)
                + 0.01 * abs(means_G[0]) * JITTER[(s + 1) % 3]
            )
            lines.append(line(arm, s, t, metric, float(value), unit, split))
    return lines


def line(arm, seed, t, metric, value, unit="1", split="real_test", **more):
    return {
        "arm": arm,
        "seed": seed,
        "generation": t,
        "generation_id": "",
        "metric": metric,
        "value": value,
        "unit": unit,
        "split": split,
        "predicted": None,
        **more,
    }


def means(metric, means_G, se=0.001, seeds=500, unit="1", arm="a"):
    return [
        line(arm, None, t, metric, m, unit, "population", se=se, seeds=seeds)
        for t, m in enumerate(means_G, 1)
    ]


def one(lines, k, **options):
    return profile(lines, **options)["a"][k - 1]


T = np.arange(1, 21)
LONG = np.arange(1, 41)
SQUARES = np.cumsum(1.0 / T**2)
CASES = [
    (1, "test_loss", "squared error", [1, 2, 3, 4], 0.01, YES),
    (1, "test_loss", "squared error", [1, 1.3, 1.5, 1.6], 0.01, NO),
    (1, "test_loss", "squared error", [1, 1.5, 1.8, 2.1], 1.0, UNDECIDED),
    (1, "test_loss", "nats/token", [4, 4.5, 5], 0.01, YES),
    (1, "test_loss", "nats/token", [4, 4.1, 4.3], 0.01, NO),
    (1, "test_loss", "bits/byte", [4, 4.5, 4.9], 0.01, NO),
    (1, "test_loss", "bits/byte", [4, 4.5, 5.2], 0.01, YES),
    (1, "perplexity", "tokens", [50, 80, 150], 1.0, YES),
    (1, "perplexity", "tokens", [50, 60, 70], 1.0, NO),
    (1, "test_loss", "squared error", [0, 0, 0], 0.0, NOT_APPLICABLE),
    (2, "test_loss", "nats/token", [3, 3.5, 2.9], 0.01, YES),
    (2, "test_loss", "nats/token", [3, 2.8, 2.7], 0.01, NO),
    (2, "test_loss", "nats/token", [3, 3.05, 3.02], 0.5, UNDECIDED),
    (3, "test_loss", "1", T * 1.0, 0.01, YES),
    (3, "test_loss", "1", SQUARES, 0.01, NO),
    (3, "test_loss", "1", 5.0 - 0.1 * T, 0.01, NO),
    (3, "test_loss", "1", np.where(T < 10, T, 10.0), 0.01, NO),
    (3, "test_loss", "1", np.minimum(LONG, 22) + 0.01 * LONG, 0.001, NO),
    (3, "test_loss", "1", 1 + np.log(T), 1.0, UNDECIDED),
    (3, "test_loss", "1", [1, 2, 3], 0.01, UNDECIDED),
    (5, "variance_ratio", "ratio", [1, 0.3, 0.05], 0.001, YES),
    (5, "variance_ratio", "ratio", [1, 0.99, 0.98, 0.98], 0.001, NO),
    (5, "variance_ratio", "ratio", [1, 0.8, 0.6, 0.4], 0.001, UNDECIDED),
    (5, "variance_ratio", "ratio", [1, 0.3, 0.1], 0.1, UNDECIDED),
    (5, "log_variance", "nats", [0, -1, -4], 0.001, YES),
    (5, "std_ratio", "ratio", [1, 0.5, 0.2], 0.001, YES),
    (5, "unigram_entropy", "nats/token", [5.3, 5.3, 5.25], 0.001, NO),
    (6, "class_coverage", "share", [1, 0.8, 0.3], 0.001, YES),
    (6, "class_coverage", "share", [1, 0.9, 0.8], 0.001, NO),
    (6, "class_confusion", "share", [0.1, 0.2, 0.4], 0.001, YES),
    (6, "smallest_share", "share", [0.1, 0.08, 0.03], 0.001, YES),
    (6, "smallest_share", "share", [0.1, 0.09, 0.08], 0.001, NO),
    (6, "smallest_share", "share", [0.1, 0.09, 0.05], 0.02, UNDECIDED),
    (6, "coverage_recall_0.5", "share", [0.6, 0.5, 0.2], 0.001, YES),
    (7, "tail_recall", "share", [0.9, 0.5, 0.2], 0.001, YES),
    (7, "tail_recall", "share", [0.9, 0.9, 0.9], 0.001, NO),
    (7, "tail_recall", "share", [0.9, 0.8, 0.7, 0.6], 0.001, UNDECIDED),
    (7, "missing_mass", "probability", [0.0, 0.1, 0.2], 0.001, YES),
    (7, "missing_mass", "probability", [0.0, 0.01, 0.01], 0.001, NO),
    (8, "sample_loss_under_first", "nats/token", [4, 4.5, 5.5], 0.01, YES),
    (8, "sample_loss_under_first", "nats/token", [4, 4, 4.1], 0.01, NO),
    (8, "sample_loss_under_first", "nats/token", [4, 4.5, 4.7], 1.0, UNDECIDED),
    (8, "valid_share", "share", [0.9, 0.7, 0.5], 0.001, YES),
    (8, "valid_share", "share", [0.9, 0.95, 0.95], 0.001, NO),
    (8, "precision", "share", [0.8, 0.7, 0.6], 0.001, YES),
    (1, "test_loss", "nats/dim", [-1.2, -0.9, -0.3], 0.001, YES),
    (1, "test_loss", "nats/dim", [-1.2, -0.9, -0.8], 0.001, NO),
    (1, "test_loss", "bits/dim", [-1.2, -0.9, -0.1], 0.001, YES),
    (2, "test_loss", "nats/dim", [-1.2, -1.1, -1.0], 0.001, YES),
    (5, "diversity", "Å", [1.0, 0.6, 0.2], 0.001, YES),
]


@pytest.mark.parametrize("k, metric, unit, curve, noise, verdict", CASES)
def test_verdicts(k, metric, unit, curve, noise, verdict):
    found = one(records(metric, curve, noise, unit), k)
    assert found.verdict == verdict, found
    assert found.metric == metric and metric in found.how and found.name == NAMES[k - 1]
    if k != 1 or verdict != NOT_APPLICABLE:
        single = one(records(metric, curve, noise, unit, seeds=1), k)
        assert single.verdict == UNDECIDED and math.isnan(single.interval.low)


@pytest.mark.parametrize("k, metric, unit, curve, noise, verdict", CASES)
def test_means_with_standard_errors_give_the_same_verdicts(k, metric, unit, curve, noise, verdict):
    tight = one(means(metric, np.asarray(curve, float), max(noise, 1e-4) / 3, 3, unit), k)
    # what cannot be paired is wider: it may be undecided, it must not be the opposite
    assert tight.verdict in (verdict, UNDECIDED), tight
    assert "means only" in tight.how or tight.verdict == NOT_APPLICABLE or len(curve) < 4
    if verdict in (YES, NO):
        assert one(means(metric, np.asarray(curve, float), 1e-4, 5000, unit), k).verdict == verdict


def test_a_fall_that_stops_is_no_divergence():
    """It does not rise beyond the margin; without a margin, what rises by so little decides nothing."""
    curve = np.where(T < 9, 10 / T, 10 / 8) + 1e-3 * T
    assert one(means("test_loss", curve, 0.01), 3).verdict == NO
    assert one(means("test_loss", curve, 0.01), 3, thresholds=Thresholds(margin=0)).verdict != YES


def test_changes_of_means_propagate_their_errors():
    lines = means("test_loss", [2.0, 3.0, 7.0])
    for r, se in zip(lines, (0.3, 0.1, 0.2), strict=True):
        r["se"] = se
    curve = series.curves(lines)[series.Quantity("test_loss", "1", "population")]["a"]
    bend = changes.contrast(curve, {0: 1, 1: -3, 2: 2})
    np.testing.assert_allclose([bend.mean, bend.se], [7, math.sqrt(0.3**2 + 0.3**2 + 0.4**2)])
    np.testing.assert_allclose(bend.half, stats.t.ppf(0.975, 499) * bend.se)
    rng = np.random.default_rng(0)
    first, last = rng.normal(2, 0.003, 10**5), rng.normal(7, 0.002, 10**5)
    for r, se in zip(lines, (0.003, 0.1, 0.002), strict=True):
        r["se"] = se
    curve = series.curves(lines)[series.Quantity("test_loss", "1", "population")]["a"]
    r = changes.ratio(curve, 0, 2)
    np.testing.assert_allclose([r.mean, r.se], [3.5, (last / first).std()], rtol=0.02)


def test_a_standard_deviation_counts_as_its_variance():
    found = one(records("std_ratio", [1, 0.5, 0.2], 0.0), 5)
    assert found.interval.value == pytest.approx(0.04)


def test_nothing_measured_does_not_apply():
    found = profile(records("train_loss", [1, 2, 3]))["a"]
    assert [f.verdict for f in found] == [NOT_APPLICABLE] * 8
    assert [f.definition for f in found] == list(range(1, 9))
    assert all(f.how.startswith("needs ") and math.isnan(f.interval.value) for f in found)
    assert profile([]) == {}


def test_one_generation_and_a_late_start_decide_nothing():
    for lines in (records("test_loss", [2.0]), records("test_loss", [2.0, 3.0])[1::2]):
        assert all(f.verdict == UNDECIDED for f in (one(lines, 1), one(lines, 2), one(lines, 3)))


def test_divergence_is_an_infinite_risk():
    lines = records("test_loss", [1, 1.1, 1.2, 1.2, 1.2])
    for r in lines:
        if r["seed"] == 1 and r["generation"] >= 4:
            r["value"] = None
    found = profile(lines)["a"]
    assert [f.verdict for f in found[:3]] == [YES, YES, UNDECIDED]
    assert found[0].interval.value == math.inf and "seed 1 diverged at generation 4" in found[1].how
    lost = means("test_loss", [1, 2, 3, math.nan])
    assert [f.verdict for f in profile(lost)["a"][:3]] == [YES, YES, UNDECIDED]
    assert "generation 4" in profile(lost)["a"][0].how


def test_the_largest_rise_has_the_ends_of_its_tests():
    rng = np.random.default_rng(0)
    values_SG = rng.normal([3, 3.2, 3.1, 3.4], 0.1, (6, 4))
    lines = [line("a", s, t + 1, "test_loss", float(v)) for (s, t), v in np.ndenumerate(values_SG)]
    rise_SG = values_SG[:, 1:] - values_SG[:, :1]
    mean_G, se_G = rise_SG.mean(0), stats.sem(rise_SG)
    low_G = mean_G - stats.t.ppf(1 - np.array([0.0125 / 2, 0.0125 / 2, 0.025]), 5) * se_G
    x = one(lines, 2).interval
    wanted = [mean_G.max(), low_G.max(), (mean_G + stats.t.ppf(0.975, 5) * se_G).max()]
    np.testing.assert_allclose([x.value, x.low, x.high], wanted)


def test_perplexity_ratio_has_fiellers_interval_to_first_order():
    rng = np.random.default_rng(1)
    first_S, last_S = rng.normal(50, 0.5, 200), rng.normal(150, 0.5, 200)
    lines = [line("a", s, 1, "perplexity", float(x)) for s, x in enumerate(first_S)]
    lines += [line("a", s, 2, "perplexity", float(x)) for s, x in enumerate(last_S)]
    x = one(lines, 1).interval
    r = last_S.mean() / first_S.mean()
    half = stats.t.ppf(0.975, 199) * stats.sem(last_S - r * first_S) / first_S.mean()
    np.testing.assert_allclose([x.value, x.low, x.high], [r, r - half, r + half])
    picks_R = rng.integers(200, size=(4000, 200))
    low, high = np.quantile(last_S[picks_R].mean(1) / first_S[picks_R].mean(1), [0.025, 0.975])
    np.testing.assert_allclose([x.low, x.high], [low, high], rtol=2e-3)


def test_a_loss_in_nats_is_judged_as_its_perplexity():
    a = one(records("test_loss", [4, 4.5, 5], 0.01, "nats/token"), 1)
    assert a.interval.value == pytest.approx(math.exp(1.0), rel=0.02) and "exp(test_loss)" in a.how
    bits = one(records("test_loss", [4, 4.5, 5], 0.01, "bits/byte"), 1)
    assert bits.interval.value == pytest.approx(2.0, rel=0.02)


def test_preferences_and_splits():
    lines = records("test_loss", [3, 4, 5], unit="nats/token") + records("perplexity", [20, 21, 22])
    assert one(lines, 1).metric == "perplexity" and one(lines, 1).verdict == NO
    lines = records("test_loss", [1, 1, 1.0], split="mixture") + records("test_loss", [1, 5, 9.0])
    assert one(lines, 1).verdict == YES and one(lines[::-1], 1).verdict == YES
    own = {**EVIDENCE, 1: (definitions.Evidence("my_risk", "grows", "catastrophic"),)}
    assert one(records("my_risk", [1, 5]), 1, evidence=own).verdict == YES


def test_evidence_that_has_no_ratio_gives_way_to_the_next():
    lines = records("smallest_share", [0.0, 0.0, 0.0], 0.0) + records("class_coverage", [0.9, 0.6, 0.2])
    assert one(lines, 6).metric == "class_coverage" and one(lines, 6).verdict == YES
    alone = one(records("smallest_share", [0.0, 0.0, 0.0], 0.0), 6)
    assert alone.verdict == NOT_APPLICABLE and "not above 0" in alone.how


def test_a_threshold_in_the_name_is_no_other_metric():
    names = {"coverage_recall_1.25", "coverage_recall_0.5", "coverage_recall_of_x", "recall"}
    assert measured_as("coverage_recall", names) == "coverage_recall_0.5"
    assert measured_as("coverage_recall", names | {"coverage_recall"}) == "coverage_recall"
    assert measured_as("coverage", names) == "" and measured_as("recall", names) == "recall"


def test_all_evidence_is_something_that_is_measured():
    told = {"test_loss", "perplexity", "sample_loss_under_first"}  # of every chain, of language models
    told |= {*text.UNITS, *images.UNITS, *molecules.UNITS}
    for name in families.WHERE:
        told |= {*families.kind(name).units}
    assert not [e.metric for es in EVIDENCE.values() for e in es if not measured_as(e.metric, told)]


def test_thresholds_are_settings():
    lines = records("perplexity", [50, 60, 150], 1.0)
    assert one(lines, 1, thresholds=Thresholds(catastrophic=10)).verdict == NO
    assert one(lines, 1, thresholds=Thresholds(catastrophic=10)).threshold == 10


def by_size(c_last, noise=0.0):
    lines, sizes = [], {}
    for n in (100, 300, 1000, 3000):
        lines += records("test_loss", [n**-0.5, 2 * n**-c_last], noise * n**-0.5, "1", f"n={n}")
        sizes[f"n={n}"] = ("all", n)
    return lines, sizes


@pytest.mark.parametrize(
    "c_last, noise, verdict", [(0.2, 0.01, YES), (0.5, 0.01, NO), (0.9, 0.01, YES), (0.45, 0.5, UNDECIDED)]
)
def test_change_of_scaling_law(c_last, noise, verdict):
    lines, sizes = by_size(c_last, noise)
    for findings in profile(lines, sizes=sizes).values():
        f = findings[3]
        assert f.verdict == verdict, f
        assert f.interval.value == pytest.approx(0.5 - c_last, abs=0.02 if noise < 0.1 else 0.3)
        assert "c = 0.500 in generation 1" in f.how and "4 sizes from 100 to 3,000" in f.how


def test_scaling_law_needs_three_sizes_and_losses_above_zero():
    lines, sizes = by_size(0.2)
    two = {arm: sizes[arm] for arm in ("n=100", "n=300")}
    assert all(f[3].verdict == NOT_APPLICABLE for f in profile(lines, sizes=two).values())
    assert all(f[3].verdict == NOT_APPLICABLE for f in profile(lines).values())
    below = [{**r, "value": -r["value"]} for r in lines]
    assert all(f[3].verdict == NOT_APPLICABLE for f in profile(below, sizes=sizes).values())


MANY = [
    *records("test_loss", [1, 2, 3, 4, 5], 0.5, "squared error"),
    *records("tail_recall", [0.9, 0.7, 0.4, 0.3, 0.3], 0.1),
    *records("sample_loss_under_first", [4, 4.2, 4.4, 4.5, 4.7], 0.2, "nats/token"),
    *records("variance_ratio", [1, 0.8, 0.6, 0.4, 0.2], 0.1),
    *means("test_loss", [1, 2, 3, 4, 4.5], 0.3, arm="b"),
    *means("survivors", [10, 8, 5, 3, 1], 0.3, arm="b"),
]


@settings(max_examples=20, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_records_does_not_matter(chance: random.Random):
    shuffled = list(MANY)
    chance.shuffle(shuffled)
    assert str(profile(shuffled)["a"]) == str(profile(MANY)["a"])
    assert str(profile(shuffled)["b"]) == str(profile(MANY)["b"])


@settings(max_examples=30, deadline=None)
@given(st.floats(-6, 6), st.lists(st.floats(0.1, 10), min_size=4, max_size=8), st.floats(0, 1))
def test_the_unit_of_a_loss_does_not_matter(power, curve, noise):
    """Ratios, signs of rises and bends, shares left: none sees a constant factor."""
    for metric in ("test_loss", "variance_ratio", "tail_recall", "smallest_share"):
        lines = records(metric, curve, noise, "squared error")
        scaled = [{**r, "value": r["value"] * 2.0 ** round(power)} for r in lines]
        assert [f.verdict for f in profile(lines)["a"]] == [f.verdict for f in profile(scaled)["a"]]


def test_the_workflows_of_theory_get_their_known_verdicts():
    """Expected regression risk in units of generation 1: t under replace, sum 1/k^2 under accumulate."""
    lines = means("test_loss", T * 1.0, 0.01, arm="replace") + means(
        "test_loss", SQUARES, 0.003, arm="accumulate"
    )
    found = {arm: [f.verdict for f in fs[:3]] for arm, fs in profile(lines).items()}
    assert found == {"replace": [YES, YES, YES], "accumulate": [NO, YES, NO]}
