"""What a run writes about itself: timings and training curves as JSON lines, TensorBoard when installed."""

import importlib.util
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import jax

from collapse_jax import processes
from collapse_jax.files import finite

_compiled = 0


def _count(event: str, duration_secs: float, **kwargs: Any) -> None:
    global _compiled
    _compiled += event.endswith("backend_compile_duration")


jax.monitoring.register_event_duration_secs_listener(_count)


def compilations() -> int:
    """Programs compiled by this process so far."""
    return _compiled


class Timings:
    """Seconds by stage, appended to `timings.jsonl`, whose earlier lines give a resumed run its estimates."""

    def __init__(self, path: Path):
        self.path = path
        self.seconds: dict[str, float] = defaultdict(float)
        self.units: dict[str, int] = defaultdict(int)
        for line in _lines(path):
            self._learn(line)

    def _learn(self, line: dict[str, Any]) -> None:
        if not line.get("compilations"):  # a first call says nothing about the next
            self.seconds[line["stage"]] += line["seconds"]
            self.units[line["stage"]] += line["units"]

    @contextmanager
    def stage(self, name: str, generations: Sequence[str], units: Callable[[], int]) -> Iterator[None]:
        """Time a stage of some generations side by side; `units()` is asked at its end (steps, rows)."""
        processes.at(f"{name} {','.join(generations)}")
        began, compiled = perf_counter(), compilations()
        yield
        line = {
            "generation_id": ",".join(generations),
            "stage": name,
            "seconds": round(perf_counter() - began, 4),
            "units": units(),
            "compilations": compilations() - compiled,
        }
        if processes.lead():
            with open(self.path, "a", encoding="utf-8") as f:
                f.write(json.dumps(line) + "\n")
        self._learn(line)

    def estimate(self, stage: str, units: int) -> float | None:
        """Seconds that so many units of a stage will take, None before any was timed."""
        return self.seconds[stage] / self.units[stage] * units if self.units[stage] else None


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found = json.loads(line)
        except json.JSONDecodeError:  # cut off by a kill
            continue
        if isinstance(found, dict) and {"stage", "seconds", "units"} <= set(found):
            yield found


class Curves:
    """Training curves of one generation: `<folder>/<id>.jsonl`, and TensorBoard beside it when installed."""

    def __init__(self, folder: Path, generation: str):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{generation}.jsonl" if processes.lead() else os.devnull
        self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115
        self.board = self.profile = None
        if (
            processes.lead()
            and importlib.util.find_spec("tensorflow")
            and importlib.util.find_spec("tensorboard")
        ):
            from clu import metric_writers, periodic_actions

            self.board = metric_writers.create_default_writer(str(folder / generation), asynchronous=False)
            self.profile = periodic_actions.Profile(logdir=str(folder / generation), first_profile=10)

    def write(self, step: int, values: dict[str, float]) -> None:
        self.file.write(json.dumps(finite({"step": step, **values})) + "\n")
        if self.board is not None:
            self.board.write_scalars(step, values)
        if self.profile is not None:
            self.profile(step)

    def close(self) -> None:
        self.file.close()
        if self.board is not None:
            self.board.close()
