"""`collapse plan`: what a run would do and cost, without training."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from collapse_jax import mesh as meshes
from collapse_jax import run
from collapse_jax.data.records import row_dtype
from collapse_jax.experiment import Experiment
from collapse_jax.lanes import axis, stack
from collapse_jax.lineage import Generation
from collapse_jax.training.step import State, Trainer

SHOWN = 12  # rows and columns of a workflow table that fit a terminal


def describe(experiment: Experiment, store: Path) -> str:
    """Workflow tables, generations to run and shared, parameters, FLOPs, bytes and memory, as text."""
    mesh = meshes.make(**dataclasses.asdict(experiment.mesh))
    dataset, family, graph = run.prepare(experiment, store)
    trainer = Trainer(family, experiment.train, mesh, graph.lanes)
    state = trainer.abstract
    parameters = sum(x.size for x in jax.tree.leaves(state["model"]))
    state_bytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    done = sum(Generation(store, n.recipe).read().committed for n in graph.nodes.values())
    nodes = list(graph.nodes.values())
    steps, sampled = sum(n.steps for n in nodes), sum(n.sample_rows for n in nodes)
    row_bytes = row_dtype(family.spec).itemsize
    model_bytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state["model"]))
    item, items = family.items
    drawn = steps * experiment.train.batch_size
    lines = [f"{experiment.name}: {family_words(experiment)}", ""]
    for name, workflow in graph.workflows.items():
        lines += [
            f"{name}: rows used of source 0 (real), 1, 2, ... by generation",
            *_table(workflow.table()),
            "",
        ]
    lines += [
        f"generations    {graph.per_arm} = {len(nodes)} to fit + {graph.per_arm - len(nodes)} shared; "
        f"{done} there already",
        f"real rows      {len(dataset.rows('train')):,} to train on, {len(dataset.rows('test')):,} held out",
        f"parameters     {parameters:,}",
        f"steps          {steps:,} of {experiment.train.batch_size} rows",
        f"training       {6 * parameters * drawn * items:.3g} FLOPs (6 x parameters x {items} {item} x rows drawn)",
        f"sampling       {sampled:,} rows, {2 * parameters * sampled * items:.3g} FLOPs",
        f"disk           {_bytes(sampled * row_bytes)} of shards, {_bytes(len(nodes) * model_bytes)} of weights",
        f"memory         {_bytes(state_bytes / mesh.size)} of weights and optimizer per device, "
        f"{_step_memory(trainer, experiment, mesh)} in a step",
    ]
    return "\n".join(lines)


def family_words(experiment: Experiment) -> str:
    arms, seeds = len(experiment.arms), len(experiment.seeds)
    return f"{experiment.family}, {arms} arms x {seeds} seeds x {experiment.generations} generations"


def _table(table: np.ndarray) -> list[str]:
    cells = [[f"{x:g}" if x else "." for x in row[:SHOWN]] for row in np.round(table[:SHOWN], 1)]
    width = max(len(c) for row in cells for c in row)
    rows = [f"  t={t:<3} " + " ".join(c.rjust(width) for c in row[:t]) for t, row in enumerate(cells, 1)]
    return rows + (["  ..."] if len(table) > SHOWN else [])


def _step_memory(trainer: Trainer, experiment: Experiment, mesh: jax.sharding.Mesh) -> str:
    """Temporaries of the compiled training step on one device."""
    state, keys = jax.eval_shape(lambda: _first(trainer))
    where, rows = NamedSharding(mesh, P(axis(trainer.lanes), "data")), experiment.train.batch_size
    batch = {
        name: jax.ShapeDtypeStruct((trainer.lanes, rows, *shape), dtype, sharding=where)
        for name, (shape, dtype) in trainer.family.spec.items()
    }
    scalar = jax.ShapeDtypeStruct((), np.float32, sharding=meshes.replicated(mesh))
    compiled = trainer.step.lower(state, batch, scalar, keys).compile()
    analysis = compiled.memory_analysis()
    return _bytes(analysis.temp_size_in_bytes) if analysis is not None else "unknown memory"


def _first(trainer: Trainer) -> tuple[State, jax.Array]:
    keys = stack([jax.random.key(0)], trainer.lanes)
    return trainer.init(keys), keys


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError
