"""`collapse plan`: what a run would do and cost, without training."""

import dataclasses
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from collapse_jax import devices, flops, run
from collapse_jax import mesh as meshes
from collapse_jax.console import duration
from collapse_jax.data.dataset import summary
from collapse_jax.data.records import row_dtype
from collapse_jax.experiment import Experiment, left_out
from collapse_jax.families import Family
from collapse_jax.lanes import axis
from collapse_jax.lineage import Generation
from collapse_jax.sampling.writer import Sampler
from collapse_jax.training.step import State, Trainer

SHOWN = 12  # rows and columns of a workflow table that fit a terminal
REACHED = 0.4  # share of the peak that well-tuned training reaches on large models
DISPATCH_S = 1e-3  # a program is not handed to a device faster than this


@dataclasses.dataclass(frozen=True)
class Offer:
    """A device to plan for (a name in `devices.DEVICES`, "" for none) and what one costs an hour."""

    device: str = ""
    price: float = 0.0


def describe(
    experiment: Experiment, store: Path, offer: Offer | None = None, workdir: Path | None = None
) -> str:
    """Workflow tables, generations, parameters, FLOPs, bytes, memory and time, as text. Raises `BadInput`.

    workdir: of a run whose rows are taken if they were made by the same settings.
    """
    offer = offer or Offer()
    chip = devices.named(offer.device) if offer.device else devices.of_kind(jax.devices()[0].device_kind)
    mesh = experiment.on(meshes.planned)
    dataset, family, graph = run.prepare(experiment, store, workdir)
    programs = Programs(experiment, family, mesh, graph.lanes)
    parameters = sum(x.size for x in jax.tree.leaves(programs.state["model"])) // graph.lanes
    nodes = list(graph.nodes.values())
    done = sum(Generation(store, n.recipe).read().committed for n in nodes)
    steps, sampled = sum(n.steps for n in nodes), sum(n.sample_rows for n in nodes)
    disk = sampled * row_dtype(family.spec).itemsize + 4 * parameters * len(nodes)
    training = Work("training", programs.step(), graph.steps())
    batches = sum(
        math.ceil(max(n.sample_rows for n in group) / experiment.writing.batch_size)
        for group in graph.groups()
    )
    sampling = Work("sampling", programs.sample(), batches)
    state, temporary = programs.state_bytes(), programs.temporary_bytes()
    lines = [f"{experiment.name}: {_words(experiment)}", ""]
    for name, workflow in graph.workflows.items():
        lines += [
            f"{name}: rows used of source 0 (real), 1, 2, ... by generation",
            *_table(workflow.table()),
            "",
        ]
    lines += [
        f"generations    {graph.per_arm} = {len(nodes)} to fit + {graph.per_arm - len(nodes)} shared; "
        f"{done} there already; {graph.lanes} side by side",
        f"real rows      {len(dataset.rows('train')):,} to train on, {len(dataset.rows('test')):,} held out",
        f"mesh           {', '.join(f'{name} {size}' for name, size in mesh.shape.items())}",
        f"parameters     {parameters:,}",
        f"steps          {steps:,} of {experiment.train.batch_size} rows",
        f"training       {training.flops:.3g} FLOPs, {training.flops / len(nodes):.3g} a generation",
        f"sampling       {sampled:,} rows, {sampling.flops:.3g} FLOPs",
        f"disk           {_bytes(disk)} of shards and weights",
        f"memory         {_bytes(state)} of weights and optimizer per device, "
        + (
            f"{_bytes(temporary)} in a step"
            if temporary is not None
            else "a step needs the devices to be compiled"
        ),
    ]
    if chip is not None:
        lines += _time((training, sampling), chip, mesh.size, offer)
    data = summary(dataset)
    lines += [f"note           {line}" for line in [*data["notes"], *left_out(experiment, graph)]]
    lines += [f"WARNING: {line}" for line in data["warnings"]]
    lines += [f"WARNING: {line}" for line in _warnings(state + (temporary or 0), chip, disk, store)]
    return "\n".join(lines)


class Work(NamedTuple):
    """A program and how often it runs."""

    name: str
    cost: flops.Cost
    times: int

    @property
    def flops(self) -> int:
        return self.cost.flops * self.times


class Programs:
    """The programs of an experiment, traced or compiled but never run."""

    def __init__(self, experiment: Experiment, family: Family, mesh: Any, lanes: int):
        self.experiment, self.family, self.mesh, self.lanes = experiment, family, mesh, lanes
        self.trainer = Trainer(family, experiment.train, mesh, lanes)
        self.sampler = Sampler(family, experiment.writing, mesh, lanes)
        self.real = not isinstance(mesh, jax.sharding.AbstractMesh)
        self.keys = self._lanes((), jax.random.key(0).dtype)
        with self._on_mesh():
            self.state: State = jax.eval_shape(self.trainer.init, self.keys)

    def _lanes(self, shape: tuple[int, ...], dtype: Any, *axes: str | None) -> jax.ShapeDtypeStruct:
        where = NamedSharding(self.mesh, P(axis(self.lanes), *axes))
        return jax.ShapeDtypeStruct((self.lanes, *shape), dtype, sharding=where)

    def _rows(self, count: int) -> dict[str, jax.ShapeDtypeStruct]:
        return {
            name: self._lanes((count, *shape), dtype, "data")
            for name, (shape, dtype) in self.family.spec.items()
        }

    def _arguments(self) -> tuple[State, dict[str, Any], Any, Any]:
        steps = jax.ShapeDtypeStruct((), np.float32, sharding=NamedSharding(self.mesh, P()))
        return self.state, self._rows(self.experiment.train.batch_size), steps, self.keys

    def _on_mesh(self) -> Any:
        return jax.set_mesh(self.mesh) if self.real else jax.sharding.use_abstract_mesh(self.mesh)

    def step(self) -> flops.Cost:
        """One training step of all lanes, whole batch."""
        arguments = self._arguments()
        with self._on_mesh():
            return flops.count(self.trainer.step.trace(*arguments))  # type: ignore[attr-defined]

    def sample(self) -> flops.Cost:
        """One batch of samples of all lanes."""
        size = self.experiment.writing.batch_size
        indices = self._lanes((size,), np.uint32, "data")
        with self._on_mesh():
            models = self.trainer.fitted(self.state)
            return flops.count(self.sampler.step.trace(models, self.keys, indices, self._rows(size)))

    def state_bytes(self) -> float:
        """Weights and optimizer on one device."""

        def share(x: Any) -> float:
            spec = x.sharding.spec if x.sharding is not None else ()
            names = [n for part in spec if part for n in (part if isinstance(part, tuple) else (part,))]
            return x.size * x.dtype.itemsize / math.prod(self.mesh.shape[n] for n in names)

        return sum(share(x) for x in jax.tree.leaves(self.state))

    def temporary_bytes(self) -> float | None:
        """What the compiled step needs beside its arguments on one device; None without the devices."""
        if not self.real:
            return None
        with self._on_mesh():
            compiled = self.trainer.step.lower(*self._arguments()).compile()  # type: ignore[attr-defined]
        analysis = compiled.memory_analysis()
        return analysis.temp_size_in_bytes if analysis is not None else None


def _time(work: Sequence[Work], chip: devices.Device, count: int, offer: Offer) -> Iterator[str]:
    """Time at best and as it usually comes, and what it costs."""

    def seconds(part: Work, share: float, handing_over: float) -> float:
        computed = max(part.cost.flops / chip.flops / share, part.cost.bytes / chip.bandwidth) / count
        return part.times * max(computed, handing_over)

    usual = [seconds(part, REACHED, DISPATCH_S) for part in work]
    least = sum(seconds(part, 1.0, 0.0) for part in work)
    name = offer.device or jax.devices()[0].device_kind
    parts = ", ".join(f"{part.name} {duration(s)}" for part, s in zip(work, usual, strict=True))
    yield (
        f"time           on {count} x {name}: {parts}, at {REACHED:.0%} of the peak and "
        f"{DISPATCH_S * 1e3:g} ms a program at least; {duration(least)} at the peak"
    )
    if offer.price:
        yield f"cost           {offer.price * count * sum(usual) / 3600:,.2f} at {offer.price:g} per device and hour"


def _warnings(memory: float, chip: devices.Device | None, disk: float, store: Path) -> Iterator[str]:
    if chip is not None and memory > chip.memory:
        yield (
            f"{_bytes(memory)} do not fit the {_bytes(chip.memory)} of a device; raise mesh.model, set mesh.fsdp, "
            "lower train.batch_size or raise train.microbatches"
        )
    there = next(p for p in (store.absolute(), *store.absolute().parents) if p.exists())
    free = shutil.disk_usage(there).free
    if disk > free:
        yield f"{_bytes(disk)} do not fit the {_bytes(free)} free in {there}; choose another --store"


def _words(experiment: Experiment) -> str:
    arms, seeds = len(experiment.arms), len(experiment.seeds)
    return f"{experiment.family}, {arms} arms x {seeds} seeds x {experiment.generations} generations"


def _table(table: np.ndarray) -> list[str]:
    cells = [[f"{x:g}" if x else "." for x in row[:SHOWN]] for row in np.round(table[:SHOWN], 1)]
    width = max(len(c) for row in cells for c in row)
    rows = [f"  t={t:<3} " + " ".join(c.rjust(width) for c in row[:t]) for t, row in enumerate(cells, 1)]
    return rows + (["  ..."] if len(table) > SHOWN else [])


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError
