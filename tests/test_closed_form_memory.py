"""The associative memory: interference by direct simulation, the family, data, width and tail bounds."""

import numpy as np
import pytest
from closed_form_oracle import workflow
from scipy import stats

from collapse_jax.closed_form import engine
from collapse_jax.closed_form.hutter import zipf
from collapse_jax.closed_form.memory import Memory
from collapse_jax.workflows import Arm


def test_interference_is_students_t():
    """P(wrong) of a stored fact for given strengths, by drawing embeddings with NumPy."""
    generator, width, q = np.random.default_rng(0), 6, np.array([0.5, 1.0, 0.3, 0.8, 0.2])
    e = generator.normal(size=(200_000, 5, width)) / np.sqrt(width)
    score = np.einsum("sd,sxd->sx", np.einsum("x,sxd->sd", q, e), e)
    for x in range(5):
        law = stats.t.sf(q[x] * np.sqrt(width / ((q**2).sum() - q[x] ** 2)), width)
        assert abs((score[:, x] < 0).mean() - law) < 4 * np.sqrt(law * (1 - law) / 200_000)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "arm", "tolerance"),
    [
        (Memory(symbols=200, width=40), Arm("accumulate"), 0.01),
        (Memory(symbols=200, width=40, strength="head"), Arm("replace"), 0.01),
        (Memory(symbols=200, width=40, strength="counts"), Arm("replace"), 0.02),
        (Memory(symbols=200, width=40, strength="counts"), Arm("table", table=((1,), (0.4, 0.8))), 0.02),
        (
            Memory(symbols=200, width=40, strength="counts", rank_cut=30),
            Arm("table", table=((1,), (0.4, 0.8))),
            0.02,
        ),
        (Memory(symbols=200, width=40, rank_cut=30), Arm("table", table=((1,), (0.2, 0.8))), 0.01),
    ],
    ids=["seen", "head", "counts", "counts mixed", "counts mixed and cut", "cut"],
)
def test_simulation_follows_the_prediction(family, arm, tolerance):
    """Facts stored: within four standard errors. The loss: to leading order, within a per cent or two."""
    table, seeds = workflow(arm, 150, 2), 1500
    found, laws = engine.collect(family, table, seeds), family.predict(table)
    for name, slack in (("stored", 0.0), ("test_loss", tolerance)):
        mean, error = found[name].mean(0), found[name].std(0) / np.sqrt(seeds)
        law = laws[name].values
        assert (np.abs(mean - law) < 4 * error + slack * law + 1e-9).all(), (name, mean, law, error)
    assert laws["stored"].exact and not laws["test_loss"].exact


def test_counts_of_two_sources_by_a_sum_over_both():
    """The loss of a mixed generation: both counts of every fact listed one by one."""
    family, real, made, loss = Memory(symbols=20, width=5, strength="counts", rank_cut=6), 4, 8, 0.0
    p, asked, total = zipf(1.5, 20), family.asked, real + made
    squares = (real * p * (1 - p) + made * asked * (1 - asked) + (real * p + made * asked) ** 2) / total**2
    for x in range(20):
        noise = squares.sum() - squares[x]
        for a in range(real + 1):
            for b in range(made + 1):
                chance = stats.binom.pmf(a, real, p[x]) * stats.binom.pmf(b, made, asked[x])
                loss += p[x] * chance * stats.t.sf((a + b) / total * np.sqrt(5 / noise), 5)
    law = family.predict(workflow(Arm("table", table=((1,), (0.4, 0.8))), 10, 2))["test_loss"].values[1]
    assert law == pytest.approx(loss, rel=1e-10)


def _loss(rows: int, **settings) -> float:
    family = Memory(symbols=3000, **settings)
    return float(family.predict(workflow(Arm("table", table=((1,), (0, 1))), rows, 2))["test_loss"].values[1])


def test_data_width_and_tail_each_bound_the_loss():
    """With the other two ample, more of one lowers the loss; with one short, the others do not help."""
    p, ample = zipf(1.5, 3000), 300_000
    assert _loss(ample, width=30_000) < 0.25 * _loss(100, width=30_000)
    assert _loss(ample, width=30_000) < 0.25 * _loss(ample, width=30)
    short = _loss(ample, width=30_000, rank_cut=100)
    assert short == pytest.approx(0.5 * p[100:].sum(), rel=0.02)
    assert _loss(10 * ample, width=100_000, rank_cut=100) == pytest.approx(short, rel=0.02)
    narrow = _loss(ample, width=30)
    assert _loss(10 * ample, width=30) > 0.95 * narrow


def test_storing_only_what_fits_is_better_in_a_narrow_memory():
    assert _loss(300_000, width=60, strength="head") < _loss(300_000, width=60, strength="seen")


def test_a_model_that_teaches_its_own_mistakes_gets_worse():
    family = Memory(symbols=200, width=40, teacher="model")
    loss = engine.collect(family, workflow("replace", 300, 6), 100)["test_loss"].mean(0)
    assert loss[-1] > loss[0] + 0.02
    laws = family.predict(workflow("replace", 300, 6))["test_loss"].values
    assert np.isfinite(laws[0]) and np.isnan(laws[1:]).all()
    assert len(list(Memory(symbols=10, rank_cut=11).problems())) == 1
