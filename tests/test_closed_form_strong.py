"""Strong collapse: the exact error against NumPy's least squares, the floor, the simulation."""

import numpy as np
import pytest
from closed_form_oracle import assert_follows, same_law, workflow

from collapse_jax.closed_form import engine
from collapse_jax.closed_form.strong import Strong, shrinkage
from collapse_jax.config import BadInput
from collapse_jax.workflows import Arm


@pytest.mark.parametrize(
    ("dim", "real", "synthetic"), [(1, 5, 8), (3, 9, 4), (4, 3, 7), (5, 2, 30), (5, 0, 9)]
)
def test_shrinkage_against_least_squares(dim, real, synthetic):
    """Thousands of designs solved by NumPy, fewer real or synthetic rows than dimensions too."""
    generator, draws = np.random.default_rng(dim), 20_000
    x = generator.normal(size=(draws, real + synthetic, dim))
    labels = x[..., 0] * (np.arange(real + synthetic) >= real)
    solved = np.linalg.solve(x.mT @ x, (x.mT @ labels[..., None]))[..., 0]
    error = (solved**2).sum(1)
    assert abs(error.mean() - shrinkage(dim, real, synthetic)) < 4 * error.std() / np.sqrt(draws) + 1e-12


def test_limits():
    """All synthetic: the teacher itself. None: nothing. Many rows: the square of the share."""
    assert shrinkage(4, 0, 30) == pytest.approx(1) and shrinkage(4, 30, 0) == 0
    assert shrinkage(10, 900_000, 100_000) == pytest.approx(0.01, rel=1e-3)
    family = Strong(dim=10, distance=2.0)
    assert family.expected_error(80_000_000, 20_000_000) == pytest.approx(family.floor(0.2), rel=1e-4)


@pytest.mark.slow
def test_the_floor_is_that_of_a_published_run():
    """p2^2 |w2 - w*|^2: one run with T = 20,000 gave .0164 where the floor is .0180 (sampling noise 10 %)."""
    family = Strong(dim=10, noise=0.01, distance=1.8)
    assert family.floor(0.1) == pytest.approx(0.018)
    found = engine.collect(family, workflow(Arm("augment", fraction=0.9, synthetic=0.1), 20_000, 2), 500)
    assert found["test_loss"][:, 1].mean() == pytest.approx(0.018, rel=0.02)
    assert found["test_loss"][:, 1].min() < 0.0164


@pytest.mark.slow
@pytest.mark.parametrize(
    "arm",
    [
        Arm("augment", fraction=0.8, synthetic=0.2),
        Arm("fresh", fraction=0.5, synthetic=0.5),
        Arm("accumulate"),
    ],
    ids=lambda arm: arm.workflow,
)
def test_simulation_follows_the_prediction(arm):
    family, table = Strong(dim=5, noise=0.5, distance=1.5), workflow(arm, 30, 4)
    assert_follows(family, table, 4000, ("test_loss", "toward_teacher"))


@pytest.mark.slow
def test_rows_and_drawn_statistics_agree():
    family, table = Strong(dim=3), workflow(Arm("augment", fraction=0.5, synthetic=0.5), 12, 2)
    pool, rows, drawn = (
        engine.collect(family, table, 2000, how=how, seed=i)["test_loss"][:, 1]
        for i, how in ((1, "pool"), (1, "rows"), (2, "statistics"))
    )
    np.testing.assert_allclose(pool, rows, rtol=1e-5)
    assert same_law(rows, drawn) > 1e-3
    assert_follows(family, table, 2000, ("test_loss",), how="rows")


def test_too_few_rows_get_a_line():
    with pytest.raises(BadInput, match="below d \\+ 2 = 12"):
        engine.prepare(Strong(), workflow("replace", 11, 2), 2)
