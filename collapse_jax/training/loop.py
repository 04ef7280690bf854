"""The training loop: one generation's fit, resumable at its last checkpoint, metrics read a step late."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import checkpoint, faults, files, interrupt
from collapse_jax import mesh as meshes
from collapse_jax.lineage import Generation
from collapse_jax.training.step import State, Trainer

KEPT = 2  # checkpoints of a running fit; an older one is the fallback when the newest is damaged


@dataclass(frozen=True)
class Fit:
    """What the fit of one generation needs beside the trainer.

    `batches(step)` opens the local rows of the global batches from that step on; `begin()` gives the first state;
    `report(step, metrics)` is told of every logged step; `facts` go into the stage's result.
    """

    steps: int
    key: jax.Array
    batches: Callable[[int], AbstractContextManager[Iterator[dict[str, np.ndarray]]]]
    begin: Callable[[], State]
    report: Callable[[int, dict[str, float]], None]
    facts: dict[str, Any]


def fit(trainer: Trainer, generation: Generation, plan: Fit) -> State:
    """Fit to the last step or the first that is not finite; writes `checkpoint/` and the stage's result."""
    state = _restore(trainer, generation)
    state = plan.begin() if state is None else state
    first = int(state["step"])
    every = trainer.settings.checkpoint_every
    steps = jax.device_put(np.float32(plan.steps), meshes.replicated(trainer.mesh))
    late: dict[str, Any] | None = None
    with plan.batches(first) as batches:
        for step in range(first, plan.steps):
            batch = jax.device_put(next(batches), meshes.rows(trainer.mesh))
            state, metrics = trainer.step(state, batch, steps, plan.key)
            if late is not None and not _told(step, late, trainer.settings.log_every, plan.report):
                break
            late = metrics
            faults.point("fit/step")
            if step + 1 < plan.steps and ((step + 1) % every == 0 or interrupt.wanted()):
                _save(generation, state, step + 1)
                interrupt.poll()
        if late is not None:
            _told(plan.steps, late, 1, plan.report)
    _finish(generation, state, plan.facts)
    return state


def _told(step: int, metrics: dict[str, Any], every: int, report: Callable) -> bool:
    """Report the metrics of `step` (1-based); False when the loss or gradient is not finite."""
    finite = bool(metrics["finite"])
    if step % every == 0 or not finite:
        report(step, {k: float(v) for k, v in metrics.items()})
    return finite


def _finish(generation: Generation, state: State, facts: dict[str, Any]) -> None:
    """Write the fitted model, then the stage, then drop the checkpoints of the way."""
    faults.point("fit/end")
    step, finite_steps = int(state["step"]), int(state["finite_steps"])
    path = generation.path / "checkpoint" / "fitted"
    diverged = finite_steps < step or not _all_finite(state["model"])
    result = facts | {
        "steps": step,
        "checkpoint": "checkpoint/fitted",
        "parameters": checkpoint.digest(state["model"]),
        "train_loss": None if diverged else float(state["loss_sum"]) / max(step, 1),
        "diverged_at": finite_steps + 1 if diverged else None,
    }
    generation.refitted(result["parameters"])
    if path.exists():  # written, but its stage was not
        generation.drop(path)
    checkpoint.save(path, {"model": state["model"]})
    generation.journal(files.below(path))
    faults.point("fit/saved")
    generation.finish("fit", result)
    for old in _running(generation):
        generation.drop(old)


@jax.jit
def _all_finite(model: Any) -> jax.Array:
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(model)]))


def _running(generation: Generation) -> list[Path]:
    """Folders of the running fit's checkpoints, oldest first."""
    names = {Path(name).parts[1] for name in generation.state["files"] if name.startswith("checkpoint/")}
    return [generation.path / "checkpoint" / n for n in sorted((n for n in names if n.isdigit()), key=int)]


def _save(generation: Generation, state: State, step: int) -> None:
    path = generation.path / "checkpoint" / str(step)
    checkpoint.save(path, state)
    faults.point("fit/checkpoint")
    generation.journal(files.below(path))
    for old in _running(generation)[:-KEPT]:
        generation.drop(old)


def _restore(trainer: Trainer, generation: Generation) -> State | None:
    """The newest checkpoint that the journal vouches for (damaged ones are already set aside)."""
    running = _running(generation)
    return checkpoint.load(running[-1], trainer.abstract) if running else None


def load(trainer: Trainer, folder: Path) -> Any:
    """The fitted model in a `checkpoint/fitted` folder. Raises `BadInput`."""
    return checkpoint.load(folder, {"model": trainer.abstract["model"]})["model"]
