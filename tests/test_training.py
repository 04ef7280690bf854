"""The training step and loop against a plain NumPy AdamW written from the paper (Loshchilov and Hutter 2019)."""

import dataclasses
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from flax import nnx
from forced_devices import flags

from collapse_jax import mesh as meshes
from collapse_jax.lanes import pick, stack
from collapse_jax.training.evaluate import Evaluator
from collapse_jax.training.step import Trainer, Training, learning_rate

FAMILY = toy.Toy(toy.Model(symbols=5), 1.0)
STEPS = 12


@pytest.fixture
def mesh():
    return meshes.make()


def batches(rows: int = 8) -> list[dict]:
    generator = np.random.default_rng(0)
    return [{"x": generator.integers(0, 5, (rows, toy.LENGTH), dtype=np.int32)} for _ in range(STEPS)]


def run(settings: Training, mesh, key=0) -> tuple[np.ndarray, list[float], dict]:
    trainer = Trainer(FAMILY, settings, mesh)
    state = trainer.init(stack([jax.random.key(key)], 1))
    losses = []
    for batch in batches():
        placed = meshes.place(mesh, {"x": batch["x"][None]}, None, "data")
        state, metrics = trainer.step(state, placed, np.float32(STEPS), stack([jax.random.key(1)], 1))
        losses.append(float(metrics["loss"][0]))
    state = pick(state, 0)
    return np.asarray(state["model"].logits[...]), losses, state


def schedule(s: Training, step: int) -> float:
    warm = max(s.warmup * STEPS, 1.0)
    rate = s.learning_rate * min((step + 1) / warm, 1.0)
    if s.schedule == "cosine":
        passed = min(max((step - warm) / max(STEPS - warm, 1.0), 0.0), 1.0)
        rate *= s.end + (1 - s.end) * 0.5 * (1 + np.cos(np.pi * passed))
    return rate


def by_hand(s: Training, logits: np.ndarray) -> tuple[np.ndarray, list[float]]:
    w, m, v, losses = logits.astype(np.float64), np.zeros(5), np.zeros(5), []
    for i, batch in enumerate(batches()):
        share = np.bincount(batch["x"].ravel(), minlength=5) / batch["x"].size
        p = np.exp(w - w.max()) / np.exp(w - w.max()).sum()
        losses.append(-float(share @ np.log(p)))
        grad = p - share
        grad *= min(1.0, s.clip / np.linalg.norm(grad))
        m, v = s.b1 * m + (1 - s.b1) * grad, s.b2 * v + (1 - s.b2) * grad**2
        step = m / (1 - s.b1 ** (i + 1)) / (np.sqrt(v / (1 - s.b2 ** (i + 1))) + 1e-8)
        w = w - schedule(s, i) * (step + s.weight_decay * w)
    return w, losses


@pytest.mark.parametrize("settings", [
    Training(learning_rate=0.1),
    Training(learning_rate=0.1, schedule="constant", warmup=0.5, weight_decay=0.0),
    Training(learning_rate=0.3, clip=0.05, warmup=0.0, end=0.0),
])  # fmt: skip
def test_adamw(mesh, settings):
    start = np.asarray(FAMILY.init(nnx.Rngs(jax.random.key(0))).logits[...])
    found, losses, state = run(settings, mesh)
    expected, expected_losses = by_hand(settings, start)
    np.testing.assert_allclose(losses, expected_losses, rtol=2e-6)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert int(state["step"]) == int(state["finite_steps"]) == STEPS
    assert float(state["loss_sum"]) == pytest.approx(sum(losses), rel=1e-6)


def test_microbatches_change_nothing_but_rounding(mesh):
    whole = run(Training(learning_rate=0.1), mesh)
    parts = run(Training(learning_rate=0.1, microbatches=4), mesh)
    np.testing.assert_allclose(whole[0], parts[0], atol=1e-6)
    np.testing.assert_allclose(whole[1], parts[1], rtol=1e-6)


def test_schedule():
    s = Training(learning_rate=1.0, warmup=0.25, end=0.1)
    rates = [float(learning_rate(s, jnp.int32(i), jnp.float32(STEPS))) for i in range(STEPS)]
    np.testing.assert_allclose(rates, [schedule(s, i) for i in range(STEPS)], rtol=1e-6)
    assert rates[2] == 1.0 and rates[-1] < 0.2


def test_scales_and_biases_are_not_decayed(mesh):
    class Gains(nnx.Module):
        def __init__(self, rngs):
            self.scale, self.qkv_bias = nnx.Param(jnp.ones(3)), nnx.Param(jnp.ones(3))
            self.kernel = nnx.Param(jnp.ones(3))

    @dataclasses.dataclass(frozen=True)
    class Still(toy.Toy):
        def init(self, rngs):
            return Gains(rngs)

        def loss(self, model, batch, key, progress):
            total = jnp.stack([x.sum() for x in jax.tree.leaves(model)]).sum()
            return 0.0 * total, jnp.float32(1), {}

    trainer = Trainer(Still(toy.Model(), 1.0), Training(learning_rate=0.5, warmup=0.0), mesh)
    batch = meshes.place(mesh, {"x": batches()[0]["x"][None]}, None, "data")
    keys = stack([jax.random.key(0)], 1)
    state, _ = trainer.step(trainer.init(keys), batch, np.float32(STEPS), keys)
    model = pick(state["model"], 0)
    np.testing.assert_array_equal(model.scale[...], 1.0)
    np.testing.assert_array_equal(model.qkv_bias[...], 1.0)
    assert float(model.kernel[...][0]) == pytest.approx(1 - 0.5 * 0.1)


def test_evaluation_weighs_padding_out(mesh):
    model = FAMILY.init(nnx.Rngs(jax.random.key(0)))
    rows = np.random.default_rng(1).integers(0, 5, (10, toy.LENGTH), dtype=np.int32)
    w = np.asarray(model.logits[...], np.float64)
    log_p = w - np.log(np.exp(w).sum())
    padded = np.concatenate([rows, rows[-1:], rows[-1:]])
    weights = np.array([1.0] * 10 + [0.0] * 2, np.float32)
    cut = [({"x": padded[i : i + 4]}, weights[i : i + 4]) for i in range(0, 12, 4)]
    [found] = Evaluator(FAMILY, mesh)(stack([model], 1), [cut])
    assert found["test_loss"] == pytest.approx(-log_p[rows].mean(), rel=1e-6)


@pytest.mark.slow
def test_eight_devices_give_the_losses_of_one(mesh):
    """Strided microbatches and the data axis change nothing but rounding."""
    code = (
        "import sys; sys.path[:0] = ['tests']\n"
        "import test_training as t\n"
        "from collapse_jax import mesh\n"
        "print(t.run(t.Training(learning_rate=0.1, microbatches=1), mesh.make(8, 1))[1])"
    )
    environment = {**os.environ, "XLA_FLAGS": flags(8)}
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    found = [float(x) for x in done.stdout.strip("[] \n").split(",")]
    np.testing.assert_allclose(found, run(Training(learning_rate=0.1), mesh)[1], rtol=1e-5)
