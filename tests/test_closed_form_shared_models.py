"""The pool of models: the linear recursion by hand, the exact losses, homogenisation."""

import numpy as np
import pytest
from closed_form_oracle import assert_follows, same_law, workflow

from collapse_jax.closed_form import engine
from collapse_jax.closed_form.shared_models import SharedModels
from collapse_jax.workflows import Arm

METRICS = ("test_loss", "others_loss", "public_loss", "disagreement")


def by_hand(family: SharedModels, rows: int, generations: int) -> dict[str, np.ndarray]:
    """Covariances of (tasks, public noise, private noise, models) by x -> A x + noise, real rows kept for ever."""
    k, alpha, beta = family.models, family.alpha, family.beta
    size = 3 * k + 1  # tasks, private noise, public noise, models
    cov = np.zeros((size, size))
    cov[:k, :k] = family.separation**2 * np.eye(k)
    cov[k : 2 * k + 1, k : 2 * k + 1] = family.noise / rows * np.eye(k + 1)
    real = np.hstack([beta * np.eye(k), beta * np.eye(k), np.full((k, 1), 1 - beta), np.zeros((k, k))])
    out: dict[str, list] = {name: [] for name in METRICS}
    for t in range(generations):
        step = np.eye(size)
        step[2 * k + 1 :] = real if t == 0 else (1 - alpha) * real
        if t:
            step[2 * k + 1 :, 2 * k + 1 :] += alpha / k
        cov = step @ cov @ step.T
        if t:
            cov[2 * k + 1 :, 2 * k + 1 :] += alpha**2 * family.noise / rows / k
        models, tasks = np.eye(size)[2 * k + 1 :], np.eye(size)[:k]
        mean = models.mean(0)
        for name, away in {
            "test_loss": [models[i] - tasks[i] for i in range(k)],
            "others_loss": [models[i] - tasks[j] for i in range(k) for j in range(k) if i != j],
            "public_loss": list(models),
            "disagreement": [m - mean for m in models],
        }.items():
            out[name].append(family.dim * np.mean([a @ cov @ a for a in away]))
    return {name: np.array(v) for name, v in out.items()}


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_prediction_is_the_recursion_of_the_paper(alpha):
    family = SharedModels(models=3, dim=2, alpha=alpha, beta=0.7, separation=1.3, noise=0.8)
    law, truth = family.predict(workflow("augment", 25, 5)), by_hand(family, 25, 5)
    for name in METRICS:
        np.testing.assert_allclose(law[name].values, truth[name], rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arm",
    [Arm("augment"), Arm("fresh", fraction=0.4), Arm("accumulate"), Arm("replace")],
    ids=lambda arm: arm.workflow,
)
def test_simulation_follows_the_prediction(arm):
    family = SharedModels(models=3, dim=2, alpha=0.6)
    assert_follows(family, workflow(arm, 10, 5), 2000, METRICS)


@pytest.mark.slow
def test_rows_and_drawn_statistics_agree():
    family, table = SharedModels(models=2, dim=2), workflow("augment", 6, 3)
    pool, rows, drawn = (
        engine.collect(family, table, 2000, how=how, seed=i)["others_loss"][:, 2]
        for i, how in ((1, "pool"), (1, "rows"), (2, "statistics"))
    )
    np.testing.assert_allclose(pool, rows, rtol=1e-5)
    assert same_law(rows, drawn) > 1e-3


def test_sharing_homogenises():
    """From alpha = 0 to 1 own loss rises, others' loss and disagreement fall; at 1 all models are one."""
    table = workflow("augment", 1000, 8)
    ends = [
        {m: law.values[-1] for m, law in SharedModels(alpha=a, beta=0.8).predict(table).items()}
        for a in (0.0, 0.5, 1.0)
    ]
    assert ends[0]["test_loss"] < ends[1]["test_loss"] < ends[2]["test_loss"]
    assert ends[0]["others_loss"] > ends[1]["others_loss"] > ends[2]["others_loss"]
    assert ends[0]["disagreement"] > ends[1]["disagreement"] > ends[2]["disagreement"] == pytest.approx(0)


def test_one_model_that_keeps_its_data():
    """K = 1, beta = 1: E |theta - theta*|^2 is d sigma^2/n (1 + share of new noise alpha^2/(1 - alpha^2))."""
    family = SharedModels(models=1, dim=4, alpha=0.5, beta=1.0)
    law = family.predict(workflow("augment", 50, 40))["test_loss"].values
    assert law[0] == pytest.approx(4 / 50) and law[-1] == pytest.approx(4 / 50 * (1 + 0.25 / 0.75))
    assert len(list(SharedModels(noise=0.0, separation=0.0).problems())) == 1
