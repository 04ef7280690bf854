"""`collapse bench`: training and sampling speed at the shapes of a config, as medians over repeated steps."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import jax
import numpy as np

from collapse_jax import chain, run
from collapse_jax import mesh as meshes
from collapse_jax.console import say
from collapse_jax.experiment import Experiment
from collapse_jax.lanes import axis, filled, stack
from collapse_jax.sampling.writer import Sampler
from collapse_jax.training.step import Trainer


def main(experiment: Experiment, store: Path, seconds: float, as_json: bool) -> dict[str, Any]:
    """Measure for `seconds` each and print; rows are real rows of the config's data."""
    mesh = meshes.make(**dataclasses.asdict(experiment.mesh))
    dataset, family, graph = run.prepare(experiment, store)
    trainer = Trainer(family, experiment.train, mesh, graph.lanes)
    sampler = Sampler(family, experiment.writing, mesh, graph.lanes)
    real = dataset.rows("train")
    batch_rows, sample_rows = experiment.train.batch_size, experiment.writing.batch_size
    placed = [
        _placed(trainer, real.take(np.arange(i * batch_rows, (i + 1) * batch_rows) % len(real)))
        for i in range(8)
    ]
    keys = stack([trainer.fresh_key(0, 1)], graph.lanes)
    state = trainer.init(keys)
    parameters = sum(x.size for x in jax.tree.leaves(trainer.abstract["model"]))
    steps = meshes.place(mesh, np.float32(10_000))

    def step(i: int) -> None:
        nonlocal state
        state, metrics = trainer.step(state, placed[i % len(placed)], steps, keys)
        jax.block_until_ready(metrics["loss"])

    first_step, step_s = _timed(step, seconds)
    model = trainer.fitted(state)

    def sample(i: int) -> None:
        for _ in sampler.batches(model, [(i, 1)], [[(0, sample_rows)]], real):
            pass

    first_sample, sample_s = _timed(sample, seconds)
    found = {
        "train_rows_per_s": batch_rows / median(step_s),
        "sample_rows_per_s": sample_rows / median(sample_s),
        "step_ms_median": 1e3 * median(step_s),
        "step_ms_spread": [1e3 * q for q in _quartiles(step_s)],
        "sample_ms_median": 1e3 * median(sample_s),
        "compile_s": first_step + first_sample - median(step_s) - median(sample_s),
        "params": parameters,
        "device": chain.device(),
        "steps": len(step_s),
        "samples": len(sample_s),
    }
    item, per_row = family.items
    found |= {
        f"{stage}_{item}_per_s": per_row * found[f"{stage}_rows_per_s"] for stage in ("train", "sample")
    }
    say(json.dumps(found) if as_json else "\n".join(f"{k:22} {_words(v)}" for k, v in found.items()))
    return found


def _placed(trainer: Trainer, batch: Any) -> Any:
    whole = jax.tree.map(lambda *xs: np.stack(xs), *filled([batch], trainer.lanes))
    return meshes.place(trainer.mesh, whole, axis(trainer.lanes), "data")


def _timed(call: Callable[[int], None], seconds: float) -> tuple[float, list[float]]:
    """Seconds of the first call and of each later one, at least three, for about so long."""
    times: list[float] = []
    began = perf_counter()
    call(0)
    first = perf_counter() - began
    call(1)
    began = perf_counter()
    while perf_counter() - began < seconds or len(times) < 3:
        before = perf_counter()
        call(len(times) + 2)
        times.append(perf_counter() - before)
    return first, times


def _quartiles(times: list[float]) -> list[float]:
    return [float(q) for q in np.quantile(times, (0.25, 0.75))]


def _words(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if value < 1e4 else f"{value:,.0f}"
    return (
        " to ".join(map(_words, value))
        if isinstance(value, list)
        else f"{value:,}"
        if isinstance(value, int)
        else value
    )
