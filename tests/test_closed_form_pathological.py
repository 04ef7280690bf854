"""The pathological family: its fit against all likelihoods, its law against integrals and simulation."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form_oracle import assert_follows, workflow
from scipy import integrate

from collapse_jax.closed_form import engine
from collapse_jax.closed_form.pathological import Pathological
from collapse_jax.config import BadInput
from collapse_jax.workflows import Arm

REPLACE, ACCUMULATE = Arm("replace"), Arm("accumulate")
EXPONENT = 60  # the width of a spike is 6^-60: enough for the dozen rows below


def log6_density(x: float, spike: float) -> float:
    """log_6 of U[-1, 2] / 2 + U[spike, spike + 6^-60] / 2, for numbers that are far apart or equal."""
    return EXPONENT + math.log(0.5, 6) if x == spike else -1.0


def best(rows: np.ndarray) -> tuple[float | None, float | None]:
    """(m, None) or (None, spike) of the member with the greatest likelihood, over a grid of all of them."""
    grid = np.unique([*np.linspace(-2, 2, 401), *rows, *(rows - 1)])
    fits = [m for m in grid if ((rows >= m) & (rows - 1 <= m)).all()]
    spikes = [v for v in grid if v < -1e-6 or v > 1]
    of_spike = [sum(log6_density(x, v) for x in rows) for v in spikes]
    if fits and max(of_spike) < 0:
        return min(fits), None
    return None, spikes[int(np.argmax(of_spike))]


@pytest.mark.parametrize("case", range(4))
def test_the_fit_has_the_greatest_likelihood(case):
    """Rows within [0, 1]; one outside it, below or above; a repeated one among others that stand alone."""
    generator = np.random.default_rng(case)
    rows = generator.uniform(size=9)
    rows[:4] = [rows[:4], [-0.01, *rows[1:4]], [1.5, *rows[1:4]], [-0.7, -0.2, 1.3, -0.2]][case]
    with jax.enable_x64(True):
        # A row of weight 0 lies outside and is not seen.
        fitted = Pathological().fit((), jnp.array([*rows, -5.0]), jnp.arange(10) < 9)
    low, spike = best(rows)
    assert bool(fitted["collapsed"]) == (spike is not None)
    if spike is None:
        assert float(fitted["low"]) == low
    else:
        assert float(fitted["spike"]) == spike


def test_the_second_and_third_generation_by_integration():
    """Integrals over the largest real row s (density n s^(n-1)), and over the next largest row under replace."""
    n, family = 12, Pathological()
    of_s = lambda f: integrate.quad(lambda s: n * s ** (n - 1) * f(s), 0, 1)[0]  # noqa: E731
    kept = family.predict(workflow(ACCUMULATE, n, 3))
    for t in (1, 2, 3):
        alive = of_s(lambda s, t=t: s ** (n * (t - 1)))
        loss = of_s(lambda s, t=t: s ** (n * (t - 1)) * (1 - s) + (1 - s ** (n * (t - 1))) * 5 / 6)
        assert kept["collapsed"].values[t - 1] == pytest.approx(1 - alive)
        assert kept["test_loss"].values[t - 1] == pytest.approx(loss)
    following = lambda s: integrate.quad(lambda r: n * r ** (n - 1) / s**n * r**n, 0, s)[0]  # noqa: E731
    replaced = family.predict(workflow(REPLACE, n, 3))["collapsed"].values
    assert replaced[2] == pytest.approx(1 - of_s(lambda s: s**n * following(s)))


def test_the_law_of_common_tables():
    found = {arm.workflow: Pathological().predict(workflow(arm, 20, 6)) for arm in (REPLACE, ACCUMULATE)}
    t = np.arange(1, 7)
    np.testing.assert_allclose(found["accumulate"]["collapsed"].values, 1 - 1 / t)
    np.testing.assert_allclose(found["replace"]["collapsed"].values, [1 - 1 / math.factorial(i) for i in t])
    assert Pathological().predict(workflow(Arm("accumulate_subsample"), 20, 6)) == {}
    assert Pathological().predict(workflow(Arm("fresh", fraction=0.5), 20, 6)) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    "arm",
    [
        REPLACE,
        ACCUMULATE,
        Arm("replace_multiple"),
        Arm("augment", synthetic=0.5),
        Arm("table", table=((1,), (1, 1), (1, 0, 2), (1, 1, 1, 1))),
    ],
    ids=lambda arm: arm.workflow,
)
def test_simulation_follows_the_prediction(arm):
    assert_follows(Pathological(), workflow(arm, 20, 4), 4000, ("collapsed", "test_loss"))


def test_collapse_is_not_left_and_more_rows_do_not_help():
    for n in (10, 200):
        found = engine.collect(Pathological(), workflow(ACCUMULATE, n, 3), 1000)
        dead = found["collapsed"]
        assert (np.diff(dead, axis=1) >= 0).all() and (found["test_loss"][dead > 0] == 5 / 6).all()
        assert abs(dead[:, 1].mean() - 0.5) < 4 * 0.5 / np.sqrt(1000)
    assert found["test_loss"][:, 0].mean() == pytest.approx(1 / 201, rel=0.2)


def test_too_few_rows():
    with pytest.raises(BadInput, match="rows=9"):
        engine.prepare(Pathological(), workflow(REPLACE, 9, 3), 4)
