"""What a run writes about itself: timings and training curves as JSON lines, TensorBoard when installed."""

import importlib.util
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import jax

from collapse_jax import files, processes
from collapse_jax.console import loud

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
        self.log = Log(path)
        self.seconds: dict[str, float] = defaultdict(float)
        self.units: dict[str, int] = defaultdict(int)
        for line in self.log.begin(_is_timing):
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
        self.log.write(line)
        self._learn(line)

    def estimate(self, stage: str, units: int) -> float | None:
        """Seconds that so many units of a stage will take, None before any was timed."""
        return self.seconds[stage] / self.units[stage] * units if self.units[stage] else None


def _is_timing(line: dict[str, Any]) -> bool:
    numbers = (line.get("seconds"), line.get("units"))
    return isinstance(line.get("stage"), str) and all(
        isinstance(x, int | float) and math.isfinite(x) for x in numbers
    )


class Log:
    """JSON objects, one a line, of which each is on its way to disk when it was written; process 0 writes.

    Raises `BadInput` where the file is a link.
    """

    def __init__(self, path: Path):
        self.path = path

    def begin(self, wanted: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """The lines that are wanted; the others, with what is damaged or was cut off by a kill, are dropped."""
        files.inside(self.path.parent, self.path)
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        whole = [_object(line) for line in text.split("\n")]
        lines = [line for line in whole if line is not None and wanted(line)]
        if processes.lead():
            if any(line is None for line in whole[:-1]):  # the last one may have been cut off by a kill
                loud(f"{self.path} has damaged lines, which are left out")
            # Written anew in any case: what shares its bytes, a copy made of hard links, is not appended to.
            files.write_text(self.path, "".join(json.dumps(files.finite(line)) + "\n" for line in lines))
        return lines

    def write(self, line: dict[str, Any]) -> None:
        """Append a line."""
        if processes.lead():
            with open(self.path, "a", encoding="utf-8") as f:
                f.write(json.dumps(files.finite(line)) + "\n")


def _object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


class Curves:
    """Training curves of one generation: `logs/<id>.jsonl`, and TensorBoard beside it when installed."""

    def __init__(self, workdir: Path, generation: str):
        folder = files.inside(workdir, workdir / "logs")
        folder.mkdir(parents=True, exist_ok=True)
        self.log = Log(folder / f"{generation}.jsonl")
        self.board = self.profile = None
        if (
            processes.lead()
            and importlib.util.find_spec("tensorflow")
            and importlib.util.find_spec("tensorboard")
        ):
            from clu import metric_writers, periodic_actions

            self.board = metric_writers.create_default_writer(str(folder / generation), asynchronous=False)
            self.profile = periodic_actions.Profile(logdir=str(folder / generation), first_profile=10)

    def begin(self, step: int) -> None:
        """Go on after this step: what was written of later ones, by a run that was killed, is dropped."""
        self.log.begin(lambda line: isinstance(at := line.get("step"), int) and at <= step)

    def write(self, step: int, values: dict[str, float]) -> None:
        self.log.write({"step": step, **values})
        if self.board is not None:
            self.board.write_scalars(step, values)
        if self.profile is not None:
            self.profile(step)

    def close(self) -> None:
        if self.board is not None:
            self.board.close()
