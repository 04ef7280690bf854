"""A closed-form experiment: run the arms that are missing, then write records and report."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from collapse_jax import config as settings_
from collapse_jax import interrupt, provenance, report
from collapse_jax import mesh as meshes
from collapse_jax import workdir as workdirs
from collapse_jax.closed_form import engine, records
from collapse_jax.closed_form.settings import ClosedForm, Panel
from collapse_jax.console import duration, say
from collapse_jax.workflows import Arm, Workflow

TABLE_GENERATIONS = 12  # rows of a workflow's table that are drawn


def run(experiment: ClosedForm, workdir: Path, store: Path | None = None) -> int:
    """Run what is missing, write records and report; exit code 0. Raises `BadInput`, `Interrupted`."""
    store = (store or workdir).resolve()
    meshes.make(experiment.devices, 1)
    programs = {name: _prepare(experiment, p, arm) for name, p, arm in experiment.arms()}  # or refused
    with ExitStack() as stack:
        stack.enter_context(workdirs.owned(workdir, store))
        stack.enter_context(interrupt.caught())
        (store / "closed_form").mkdir(exist_ok=True)
        began = time.perf_counter()
        paths = _run_arms(experiment, store, programs)
        _write(experiment, workdir, store, paths)
        report.build(workdir)
        say(report.conclusion(workdir))
        say(f"{duration(time.perf_counter() - began)}; report: {workdir / 'report.html'}")
    return 0


def _run_arms(experiment: ClosedForm, store: Path, programs: Mapping[str, engine.Program]) -> dict[str, Path]:
    """Folder of every arm; arms with one recipe share it. Programs compile ahead in threads."""
    arms = list(experiment.arms())
    recipes = {name: records.recipe(experiment, p, arm) for name, p, arm in arms}
    paths = {name: records.folder(store, what) for name, what in recipes.items()}
    missing = [
        (name, p, arm) for name, p, arm in arms if not records.committed(paths[name], experiment.keep_seeds)
    ]
    with ThreadPoolExecutor(max(1, min(4, os.cpu_count() or 1))) as pool:
        ready = {name: pool.submit(programs[name].compile) for name, _, _ in missing}
        try:
            for at, (name, p, arm) in enumerate(missing, 1):
                interrupt.poll()
                if records.committed(paths[name], experiment.keep_seeds):
                    continue
                began = time.perf_counter()
                program = ready[name].result()
                records.write(
                    paths[name],
                    recipes[name],
                    p.settings,
                    p.workflow(arm),
                    _polled(program, p.seeds),
                    p.seeds,
                    experiment.keep_seeds,
                )
                spent = time.perf_counter() - began
                say(f"[{at}/{len(missing)}] {name}: {p.seeds} x {p.generations} generations in {spent:.1f} s")
        finally:
            _cancel(ready.values())
    return paths


def _cancel(futures: Any) -> None:
    waiting: list[Future] = list(futures)
    for future in waiting:
        future.cancel()


def _prepare(experiment: ClosedForm, p: Panel, arm: Arm) -> engine.Program:
    return engine.prepare(
        p.settings,
        p.workflow(arm),
        p.seeds,
        seed=experiment.seed,
        metrics=p.metrics,
        how=p.how,
        chunk=experiment.chunk,
    )


def _polled(program: engine.Program, seeds: int) -> Iterator[engine.Chunk]:
    for chunk in program.chunks(seeds):
        interrupt.poll()
        yield chunk


def _records(paths: dict[str, Path]) -> Iterator[dict[str, Any]]:
    for name, path in paths.items():
        yield from records.records(name, path)


def _write(experiment: ClosedForm, workdir: Path, store: Path, paths: dict[str, Path]) -> None:
    """records.jsonl and experiment.json, as the chain engine writes them."""
    arms = list(experiment.arms())
    rows = {p.rows for _, p, _ in arms}
    workdirs.write(
        workdir,
        store,
        {
            "name": experiment.name,
            "engine": "closed_form",
            "config": settings_.template(experiment).to_dict(),
            "arms": {name: settings_.identity(arm) for name, _, arm in arms},
            "seeds": list(range(max(p.seeds for _, p, _ in arms))),
            "generations": max(p.generations for _, p, _ in arms),
            "rows": rows.pop() if len(rows) == 1 else 0,
            "tables": {name: _table(p, arm) for name, p, arm in arms},
            "ids": {},
            "parents": {},
            "status": {path.name: "committed" for path in paths.values()},
            "units": {m: u for _, p, _ in arms for m, u in (p.settings.units | p.settings.at_end).items()},
            "versions": provenance.versions(),
            "device": provenance.device(),
            "reference": list(experiment.reference),
        },
        "".join(json.dumps(record) + "\n" for record in _records(paths)),
    )


def _table(p: Panel, arm: Arm) -> list[list[float]]:
    return Workflow(arm, p.rows, min(p.generations, TABLE_GENERATIONS)).table().tolist()


def describe(experiment: ClosedForm) -> str:
    """What would run: one line an arm, with how its past is held and the seeds of a chunk."""
    lines = []
    for name, p, arm in experiment.arms():
        program = _prepare(experiment, p, arm)
        lines.append(
            f"{name}: {p.family}, n={p.rows}, {p.generations} generations x {p.seeds} seeds; "
            f"{program.how}, {program.chunk} seeds at a time"
        )
    return "\n".join(lines)
