"""The training loop: fits side by side, resumable at their last checkpoint.

Metrics are read a dispatch late, so that the device always has the next one to do.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import checkpoint, faults, files, interrupt, processes
from collapse_jax import mesh as meshes
from collapse_jax.lanes import axis, filled, pick, stack
from collapse_jax.lineage import Generation
from collapse_jax.training.step import State, Trainer

KEPT = 2  # checkpoints of a running fit; an older one is the fallback when the newest is damaged


@dataclass(frozen=True)
class Fit:
    """What the fit of one seed's generation needs beside the trainer.

    `batches(step)` opens the local rows of the global batches from that step on; `begin(step)` is told of the
    step that the fit goes on from, `report(step, metrics)` of every logged step, once and before a checkpoint
    holds it; `facts` go into the stage's result.
    """

    generation: Generation
    key: jax.Array
    batches: Callable[[int], AbstractContextManager[Iterator[dict[str, np.ndarray]]]]
    begin: Callable[[int], None]
    report: Callable[[int, dict[str, float]], None]
    facts: dict[str, Any]


def fit(trainer: Trainer, fits: Sequence[Fit], steps: int, begin: Callable[[], State]) -> State:
    """Fit every lane to the last step; writes `checkpoint/` and the stage's result of each generation.

    `begin()` gives the first state of all lanes. A lane that meets a number that is not finite stays as it was.
    """
    first, state = _restore(trainer, fits)
    state = begin() if state is None else state
    several = trainer.settings.dispatch
    every = -(-trainer.settings.checkpoint_every // several) * several  # saved between dispatches only
    total = meshes.place(trainer.mesh, np.float32(steps))
    keys_G = stack([f.key for f in fits], trainer.lanes)
    late: tuple[int, Any] | None = None
    with ExitStack() as stack_:
        streams = [stack_.enter_context(f.batches(first)) for f in fits]
        for f in fits:
            f.begin(first)
        step = first
        while step < steps:
            count = several if step % several == 0 and step + several <= steps else 1
            state, metrics = _advance(trainer, state, streams, count, total, keys_G)
            if late is not None and not _told(fits, *late, trainer.settings.log_every):
                late = None
                break
            late = step, metrics
            before, step = step, step + count
            faults.point("fit/step")
            stop = interrupt.wanted() and count == several
            if step < steps and (stop or step // every > before // every):
                going = _told(fits, *late, trainer.settings.log_every)
                late = None
                if not going:
                    break
                _save(fits, state, step)
                interrupt.poll()
        if late is not None:
            _told(fits, *late, 1)
    for lane, f in enumerate(fits):
        _finish(trainer, f, pick(state, lane), steps)
    return state


def _advance(
    trainer: Trainer, state: State, streams: Sequence[Iterator[Any]], count: int, total: Any, keys_G: Any
) -> tuple[State, Any]:
    """`count` steps in one dispatch; metrics [K, G]."""
    together = [
        jax.tree.map(lambda *xs: np.stack(xs), *filled([next(s) for s in streams], trainer.lanes))
        for _ in range(count)
    ]
    if count > 1:
        batches = jax.tree.map(lambda *xs: np.stack(xs), *together)
        placed = meshes.place(trainer.mesh, batches, None, axis(trainer.lanes), "data")
        return trainer.steps_at_once(state, placed, total, keys_G)
    state, metrics = trainer.step(
        state, meshes.place(trainer.mesh, together[0], axis(trainer.lanes), "data"), total, keys_G
    )
    return state, jax.tree.map(lambda x: x[None], metrics)


def _told(fits: Sequence[Fit], before: int, metrics_KG: Any, every: int) -> bool:
    """Report the steps after `before` that are logged; False when no lane is finite any more."""
    finite = np.asarray(metrics_KG["finite"])
    for k, lane in np.ndindex(len(finite), len(fits)):
        step = before + k + 1
        ended = not finite[k, lane] and (finite[k - 1, lane] if k else True)
        if step % every == 0 or ended:
            fits[lane].report(step, {name: float(x[k, lane]) for name, x in metrics_KG.items()})
    return bool(finite[-1].any())


def _finish(trainer: Trainer, f: Fit, state: State, steps: int) -> None:
    """Write the fitted model, then the stage, then drop the checkpoints of the way."""
    faults.point("fit/end")
    generation, model = f.generation, trainer.fitted(state)
    finite_steps = int(state["finite_steps"])
    path = generation.path / "checkpoint" / "fitted"
    diverged = finite_steps < steps or not _all_finite(model)
    result = f.facts | {
        "steps": steps,
        "checkpoint": "checkpoint/fitted",
        "parameters": checkpoint.digest(model),
        "train_loss": None if diverged else float(state["loss_sum"]) / max(steps, 1),
        "diverged_at": finite_steps + 1 if diverged else None,
    }
    generation.refitted(result["parameters"])
    if processes.shared(path.exists):  # written, but its stage was not
        generation.drop(path)
    checkpoint.save(path, {"model": model})
    generation.journal(files.below(path))
    faults.point("fit/saved")
    generation.finish("fit", result)
    faults.point("fit/finished")
    for old in generation.running():
        generation.drop(old)


@jax.jit
def _all_finite(model: Any) -> jax.Array:
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(model)]))


def _save(fits: Sequence[Fit], state: State, step: int) -> None:
    for lane, generation in enumerate(f.generation for f in fits):
        path = generation.path / "checkpoint" / str(step)
        if processes.shared(path.exists):  # of a lane that was ahead when the run was stopped
            generation.drop(path)
        checkpoint.save(path, pick(state, lane))
        faults.point("fit/checkpoint")
        generation.journal(files.below(path))
        for old in generation.running()[:-KEPT]:
            generation.drop(old)


def _restore(trainer: Trainer, fits: Sequence[Fit]) -> tuple[int, State | None]:
    """The newest step that all lanes have a sound checkpoint of (damaged ones are already set aside)."""
    there = [{int(path.name) for path in f.generation.running()} for f in fits]
    step = max(set.intersection(*there), default=0)
    if not step:
        return 0, None
    folders = [f.generation.path / "checkpoint" / str(step) for f in fits]
    states = [checkpoint.load(folder, trainer.abstract) for folder in folders]
    return step, stack(states, trainer.lanes)


def load(trainer: Trainer, folder: Path) -> Any:
    """The fitted model in a `checkpoint/fitted` folder. Raises `BadInput`."""
    return checkpoint.load(folder, {"model": trainer.abstract["model"]})["model"]
