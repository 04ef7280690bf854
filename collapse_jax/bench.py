"""`collapse bench`: speed of training, sampling, evaluation and reading at the shapes of a config.

Medians over repeated calls after the first two, which compile and settle.
"""

import json
import resource
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import jax
import numpy as np

from collapse_jax import devices, flops, provenance, run
from collapse_jax import mesh as meshes
from collapse_jax.console import say
from collapse_jax.data import mixture
from collapse_jax.experiment import Experiment
from collapse_jax.lanes import axis, filled, stack
from collapse_jax.sampling.writer import Sampler
from collapse_jax.training.evaluate import Evaluator
from collapse_jax.training.step import Trainer

BATCHES = 8  # different ones that training goes round
SAMPLED = 4  # batches of samples in a row, so that they overlap as in a run


def main(experiment: Experiment, store: Path, seconds: float, as_json: bool) -> dict[str, Any]:
    """Measure for `seconds` each and print; rows are real rows of the config's data."""
    bench = Bench(experiment, store, seconds)
    found = {**bench.training(), **bench.sampling(), **bench.evaluation(), **bench.reading(), **bench.facts()}
    say(json.dumps(found) if as_json else "\n".join(f"{k:26} {_words(v)}" for k, v in found.items()))
    return found


class Bench:
    """The compiled programs of a config, and how long each takes."""

    def __init__(self, experiment: Experiment, store: Path, seconds: float):
        self.experiment, self.seconds, self.compile_s = experiment, seconds, 0.0
        self.mesh = experiment.on(meshes.make)
        dataset, self.family, graph = run.prepare(experiment, store)
        run.refuse_absurd(experiment, self.family)
        self.lanes = graph.lanes
        self.trainer = Trainer(self.family, experiment.train, self.mesh, self.lanes)
        self.real, self.test = dataset.rows("train"), dataset.rows("test")
        self.keys = stack([self.trainer.fresh_key(0, 1)], self.lanes)
        self.models = self.trainer.fitted(self.trainer.init(self.keys))

    def training(self) -> dict[str, Any]:
        size, trainer, dispatch = (
            self.experiment.train.batch_size,
            self.trainer,
            self.experiment.train.dispatch,
        )
        rows = [self.real.take(np.arange(i * size, (i + 1) * size) % len(self.real)) for i in range(BATCHES)]
        placed = [self._placed(batch) for batch in rows]
        if dispatch > 1:
            several = jax.tree.map(
                lambda *xs: np.stack(xs), *(self._stacked(rows[i % BATCHES]) for i in range(dispatch))
            )
            placed = [meshes.place(self.mesh, several, None, axis(self.lanes), "data")]
        program = trainer.steps_at_once if dispatch > 1 else trainer.step
        state, steps = trainer.init(self.keys), meshes.place(self.mesh, np.float32(10_000))
        operations = flops.count(program.trace(state, placed[0], steps, self.keys)).flops  # type: ignore[attr-defined]

        def step(i: int) -> None:
            nonlocal state
            state, metrics = program(state, placed[i % len(placed)], steps, self.keys)
            jax.block_until_ready(metrics["loss"])

        times = self._timed(step)
        self.models = trainer.fitted(state)
        done = self._rates("train", times, size * self.lanes * dispatch)
        low, high = np.quantile(times, (0.25, 0.75))
        return done | {
            "step_ms_median": 1e3 * median(times) / dispatch,
            "step_ms_spread": [1e3 * float(low) / dispatch, 1e3 * float(high) / dispatch],
            "step_flops": operations / dispatch,
            "mfu": self._share_of_peak(operations / median(times)),
        }

    def sampling(self) -> dict[str, Any]:
        rows = SAMPLED * self.experiment.writing.batch_size
        sampler = Sampler(self.family, self.experiment.writing, self.mesh, self.lanes)

        def sample(i: int) -> None:
            spans = [[(0, rows)]] * self.lanes
            for _ in sampler.batches(self.models, [(i, 1)] * self.lanes, spans, self.real):
                pass

        times = self._timed(sample)
        per_batch = 1e3 * median(times) / SAMPLED
        return self._rates("sample", times, rows * self.lanes) | {"sample_ms_median": per_batch}

    def evaluation(self) -> dict[str, Any]:
        size = self.experiment.evaluate.batch_size
        evaluator = Evaluator(self.family, self.mesh, self.lanes)
        rows = min(len(self.test), 4 * size)

        def evaluate(_: int) -> None:
            batches = [
                mixture.in_order(self.test, 0, rows, size, meshes.held(self.mesh, size))
                for _ in range(self.lanes)
            ]
            evaluator(self.models, batches)

        return self._rates("evaluate", self._timed(evaluate), rows * self.lanes)

    def reading(self) -> dict[str, Any]:
        """The input pipeline alone: batches of the training mixture, from disk to the host's memory."""
        size = self.experiment.train.batch_size
        length, held = len(self.real), meshes.held(self.mesh, size)
        with mixture.Batches([(self.real, 0, length)], [length], 1 << 40, size, (0, 1), 0, held) as batches:
            times = self._timed(lambda _: [next(batches) for _ in range(BATCHES)])
        return self._rates("read", times, BATCHES * size)

    def facts(self) -> dict[str, Any]:
        stats = jax.devices()[0].memory_stats() or {}
        on_host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {
            "compile_s": self.compile_s,
            "peak_memory_bytes": stats.get("peak_bytes_in_use", on_host),
            "params": sum(x.size for x in jax.tree.leaves(self.trainer.abstract["model"])),
            "lanes": self.lanes,
            "device": provenance.device(),
        }

    def _stacked(self, batch: Any) -> Any:
        return jax.tree.map(lambda *xs: np.stack(xs), *filled([batch], self.lanes))

    def _placed(self, batch: Any) -> Any:
        return meshes.place(self.mesh, self._stacked(batch), axis(self.lanes), "data")

    def _rates(self, stage: str, times: list[float], rows: int) -> dict[str, float]:
        item, per_row = self.family.items
        a_second = rows / median(times)
        found = {f"{stage}_rows_per_s": a_second}
        return found | ({f"{stage}_{item}_per_s": per_row * a_second} if per_row > 1 else {})

    def _share_of_peak(self, operations_per_s: float) -> float | None:
        known = devices.of_kind(jax.devices()[0].device_kind)
        return operations_per_s / (known.flops * self.mesh.size) if known else None

    def _timed(self, call: Callable[[int], Any]) -> list[float]:
        """Seconds of each call after the first two, at least three, for about `seconds`."""
        times: list[float] = []
        began = perf_counter()
        call(0)
        first = perf_counter() - began
        call(1)
        began = perf_counter()
        while perf_counter() - began < self.seconds or len(times) < 3:
            before = perf_counter()
            call(len(times) + 2)
            times.append(perf_counter() - before)
        self.compile_s += max(first - median(times), 0.0)
        return times


def _words(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, float):
        return f"{value:,.4g}" if value < 1e4 else f"{value:,.0f}"
    if isinstance(value, list):
        return " to ".join(map(_words, value))
    return f"{value:,}" if isinstance(value, int) else value
