"""Labels through a verifier: exact expected errors by slow sums and draws, the threshold, the simulation."""

import numpy as np
import pytest
from closed_form_oracle import assert_follows, same_law, workflow
from scipy import integrate, stats

from collapse_jax.closed_form import binomial, engine
from collapse_jax.closed_form.verified import Verified
from collapse_jax.workflows import Arm


@pytest.mark.parametrize(
    ("trials", "p"), [(500, 0.37), (100, 0.02), (7, 0.3), (10, 1.0), (0, 0.5), (20_000, 0.2)]
)
def test_the_counts_of_a_binomial_give_its_sums(trials, p):
    """Against every count, where all are visited and where they are spaced."""
    whole = np.arange(trials + 1)
    chance = stats.binom.pmf(whole, trials, p)
    for most in (200, 1000):
        values, weights = binomial.counts(trials, p, most)
        for f in (lambda x: x**3.0, lambda x: np.exp(-x / (trials + 1))):
            assert weights @ f(values) == pytest.approx(chance @ f(whole), rel=1e-11)


@pytest.mark.parametrize(
    ("settings", "real", "synthetic"),
    [
        ({"keep_right": 0.02, "keep_wrong": 0.01}, 0, 30),
        ({"keep_right": 0.2, "keep_wrong": 0.1}, 0, 60),
        ({"wrong": 0.5, "margin": 3.0, "dim": 2, "keep_right": 0.3}, 0, 40),
        ({"wrong": 0.5, "margin": 10.0, "dim": 2}, 1, 40),
        ({"dim": 1, "margin": 0.5, "wrong": 0.5, "keep_right": 0.1}, 2, 60),
    ],
)
def test_expected_error_is_the_sum_over_every_outcome(settings, real, synthetic):
    """Few kept rows too: none, or one, is as likely as any."""
    family, total = Verified(**settings), 0.0
    for kept in range(synthetic + 1):
        wrong = np.arange(kept + 1)
        chance = stats.binom.pmf(wrong, kept, family.wrong * family.keep_wrong / family.kept)
        rows = real + kept
        error = family._error_at(family.margin * (rows - 2 * wrong) / np.sqrt(rows)) if rows else 0.5
        total += stats.binom.pmf(kept, synthetic, family.kept) * (chance * error).sum()
    assert family.expected_error(real, synthetic) == pytest.approx(total, abs=1e-11)


def test_the_error_of_a_direction_keeps_its_mass():
    """Against the noncentral t, also where rows lie behind the origin; and right and wrong add up to one."""
    shift = np.array([-5.0, 0.0, 5.0, 9.2])
    for dim, margin in ((2, 10.0), (3, 30.0), (4, 1.0)):
        family = Verified(dim=dim, margin=margin)
        slow = [slow_error(dim, margin, s / margin / 10, 100) for s in shift]
        np.testing.assert_allclose(family._error_at(shift), slow, atol=1e-5)
        np.testing.assert_allclose(family._error(shift), family._error_at(shift), atol=1e-10)
        mirrored = family._error_at(shift) + family._error_at(
            -shift
        )  # the other way is wrong where this is right
        np.testing.assert_allclose(mirrored, 1, atol=1e-11)


@pytest.mark.parametrize(("dim", "synthetic"), [(1, 12), (2, 40), (6, 40)])
def test_expected_error_by_a_sum_over_every_outcome(dim, synthetic):
    """Right and wrong labels listed one by one; the angle of the classifier by adaptive quadrature."""
    family = Verified(dim=dim, margin=0.8, wrong=0.45, keep_right=0.8, keep_wrong=0.5)
    real, total = 3, 0.0
    for kept in range(synthetic + 1):
        for wrong in range(kept + 1):
            chance = stats.binom.pmf(kept, synthetic, family.kept)
            chance *= stats.binom.pmf(wrong, kept, 0.45 * 0.5 / family.kept)
            if chance > 1e-7:
                total += chance * slow_error(dim, 0.8, 1 - 2 * wrong / (real + kept), real + kept)
    assert family.expected_error(real, synthetic) == pytest.approx(total, abs=2e-6)


def slow_error(dim: int, margin: float, lean: float, rows: int) -> float:
    """E Phi(-margin cos) from the noncentral t: P(w1 / |rest| > s) with w1 ~ N(lean margin sqrt(rows), 1)."""
    shift = lean * margin * np.sqrt(rows)
    if dim == 1:
        flip = stats.norm.cdf(-shift)
        return float(stats.norm.cdf(-margin) * (1 - flip) + stats.norm.cdf(margin) * flip)
    rest = dim - 1

    def above(angle):  # P(angle of w < angle): w1 > |rest| / tan(angle)
        return stats.nct.sf(np.sqrt(rest) / np.tan(angle), rest, shift)

    def integrand(angle):
        return above(angle) * margin * np.sin(angle) * stats.norm.pdf(margin * np.cos(angle))

    grid = np.linspace(1e-9, np.pi - 1e-9, 801)
    return float(stats.norm.cdf(margin) - integrate.simpson(integrand(grid), x=grid))


def test_the_threshold():
    """phi = .9, psi = .3: p* = .75. A little below it many rows reach the best error, above it the worst."""
    family = Verified(keep_right=0.9, keep_wrong=0.3)
    assert family.threshold == pytest.approx(0.75)
    below, above = (Verified(wrong=p, keep_right=0.9, keep_wrong=0.3) for p in (0.70, 0.80))
    assert below.expected_error(0, 100_000) == pytest.approx(below.best, abs=0.01)
    assert above.expected_error(0, 100_000) == pytest.approx(1 - above.best, abs=0.01)
    at = Verified(wrong=0.75, keep_right=0.9, keep_wrong=0.3)
    assert at.expected_error(0, 1000) == pytest.approx(0.5, abs=1e-9)
    curve = [
        Verified(wrong=p, keep_right=0.9, keep_wrong=0.3).expected_error(0, 500) for p in (0.6, 0.7, 0.8)
    ]
    assert curve[0] < curve[1] < 0.5 < curve[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "arm"),
    [
        (Verified(wrong=0.6, keep_right=0.9, keep_wrong=0.5), "replace"),
        (Verified(dim=1, margin=0.1, wrong=0.3), "accumulate"),
        (Verified(dim=3, wrong=0.7, keep_right=0.7, keep_wrong=0.6), Arm("augment", fraction=0.3)),
    ],
    ids=["replace", "accumulate", "augment"],
)
def test_simulation_follows_the_prediction(family, arm):
    table = workflow(arm, 40, 4)
    assert_follows(family, table, 4000, ("test_loss", "kept"))
    if isinstance(arm, Arm):
        assert_follows(family, table, 2000, ("test_loss", "kept"), how="rows")


@pytest.mark.slow
def test_rows_are_right_as_often_as_said():
    family = Verified(wrong=0.4, keep_right=0.9, keep_wrong=0.5)
    table = workflow("replace", 300, 2)
    found = engine.collect(family, table, 300, how="pool", metrics=("kept", "kept_wrong"))
    again = engine.collect(family, table, 300, how="rows", metrics=("kept", "kept_wrong"))
    for name in found:
        np.testing.assert_allclose(found[name], again[name], rtol=1e-12)
    assert found["kept"][:, 1].mean() == pytest.approx(0.74, abs=0.01)
    assert found["kept_wrong"][:, 1].mean() == pytest.approx(0.2 / 0.74, abs=0.01)
    assert (found["kept"][:, 0] == 1).all() and (found["kept_wrong"][:, 0] == 0).all()
    drawn = engine.collect(family, table, 300, how="statistics", metrics=("kept_wrong",), seed=3)
    assert same_law(drawn["kept_wrong"][:, 1], found["kept_wrong"][:, 1]) > 1e-3


@pytest.mark.slow
def test_a_model_that_labels_its_own_inputs_is_helped_by_a_verifier():
    """Hard classes, thirty rows: errors pile up without, and do not with, a perfect verifier."""
    table = workflow("replace", 30, 12)
    families = (Verified(labels="model", margin=0.3, keep_wrong=k) for k in (1.0, 0.0))
    without, checked = (engine.collect(f, table, 400)["test_loss"].mean(0) for f in families)
    assert not Verified(labels="model").predict(table)
    assert without[-1] > without[0] + 0.03 and checked[-1] < without[-1] - 0.03


def test_bad_settings_get_a_line():
    assert len(list(Verified(margin=0.0, keep_right=0.0, keep_wrong=0.0).problems())) == 2
    assert len(list(Verified(wrong=1.0, keep_wrong=0.0).problems())) == 1  # nothing would be kept
    assert not list(Verified(wrong=1.0, keep_wrong=0.0, labels="model").problems())
