"""The engine of the closed forms: scans over generations, mapped over seeds, for any family and workflow.

A family (see `family.py`) tells how to fit, draw and measure; `plan.py` turns a workflow into arrays; the
engine runs generation 1..T of every seed in one compiled program:

    fit on the mixture -> measure -> draw samples -> put them where later generations find them

and never looks inside rows, parameters or statistics. There are three ways to hold the past, `how`:

- "pool": all rows a later generation may use lie in one flat array and the table is a mask over it. Runs
  every table for every family.
- "rows": rows are drawn, reduced to sufficient statistics and forgotten; the table says which accumulators
  make a mixture. The numbers equal those of "pool" up to the rounding of f32 draws (1e-7), which the compiler
  may do in another order.
- "statistics": the statistics themselves are drawn from their law; equal to the others in distribution.

"auto" takes the last of these that the family and the table allow. Families that resample their rows (kernel
densities) keep the pool beside their statistics. A new family is a class and a line in `families.py`.

Seeds: the numbers of seed s follow from the family's settings, n, the experiment's seed and s. None depends
on the workflow, the chunk or the devices, so arms share their real rows, as chains on disk do. Chunks
of seeds run one after another through the same program, each split over the `data` axis of the mesh, so
memory is bounded by the chunk. Precision: every program is traced and run inside `jax.enable_x64(True)`,
which changes nothing outside the `with` block (jax 0.10 and 0.12); results are NumPy float64.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from collapse_jax import devices, rng
from collapse_jax.closed_form import plan, scan
from collapse_jax.closed_form.family import Family
from collapse_jax.config import BadInput
from collapse_jax.workflows import Workflow

HOW = ("auto", "pool", "rows", "statistics")
CHUNK_BYTES = 256 * 2**20
LONGEST_CHUNK = 2048  # longer ones leave the cache


class Chunk(NamedTuple):
    """Results of seeds [first, first + rows): values {metric: float64 [rows, generations]}."""

    first: int
    values: dict[str, np.ndarray]


class Program:
    """One arm ready to run: keys [chunk] -> {metric: [chunk, generations]}, compiled once."""

    def __init__(self, mapped: Callable, mesh: Any, chunk: int, how: str, base: jax.Array):
        self.mapped, self.mesh, self.chunk, self.how, self.base = mapped, mesh, chunk, how, base
        self.compiled: Any = None

    def compile(self) -> "Program":
        """Compile now; several programs may do so in threads of their own."""
        sharding = None if self.mesh is None else NamedSharding(self.mesh, P("data"))
        keys = jax.ShapeDtypeStruct((self.chunk,), self.base.dtype, sharding=sharding)
        # A thread starts with no mesh.
        with jax.enable_x64(True), nullcontext() if self.mesh is None else jax.set_mesh(self.mesh):
            self.compiled = jax.jit(self.mapped).lower(keys).compile(compiler_options=compiler_options())
        return self

    def run(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Results of the seeds `ids` [chunk]."""
        program = self.compiled or self.compile().compiled
        with jax.enable_x64(True):
            keys = jax.vmap(jax.random.fold_in, (None, 0))(self.base, jnp.asarray(ids, jnp.uint32))
            if self.mesh is not None:
                keys = jax.device_put(keys, NamedSharding(self.mesh, P("data")))
            return {name: np.asarray(v) for name, v in program(keys).items()}

    def chunks(self, seeds: int) -> Iterator[Chunk]:
        """Seeds 0..seeds - 1, a chunk at a time."""
        for first in range(0, seeds, self.chunk):
            rows = min(self.chunk, seeds - first)
            # A short last chunk repeats its last seed, so that nothing is compiled again.
            found = self.run(np.minimum(np.arange(first, first + self.chunk), seeds - 1))
            yield Chunk(first, {name: v[:rows] for name, v in found.items()})


def compiler_options() -> Any:
    """On the CPU LLVM's first level compiles in two thirds of the time and the programs run no slower."""
    return {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None


def collect(family: Family, workflow: Workflow, seeds: int, **options: Any) -> dict[str, np.ndarray]:
    """Run `seeds` chains in memory, with the options of `prepare`: {metric: float64 [seeds, generations]}."""
    parts = [c.values for c in prepare(family, workflow, seeds, **options).chunks(seeds)]
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def prepare(
    family: Family,
    workflow: Workflow,
    seeds: int,
    *,
    seed: int = 0,
    metrics: tuple[str, ...] = (),
    how: str = "auto",
    chunk: int = 0,
) -> Program:
    """Plan and build the program of one arm: `seeds` independent chains of a workflow.

    Args:
        seed: which stream of the experiment. metrics: what to keep (all that `family.metrics` names).
        how: see the module. chunk: seeds the program holds at once (0: what CHUNK_BYTES allows).
    Raises `BadInput` when the family cannot run the workflow.
    """
    for line in family.refuses(workflow):
        raise BadInput(line)
    keep = metrics or family.metrics(workflow)
    for name in keep:
        if name not in family.units:
            raise BadInput(f"metric {name!r} is not one of {', '.join(family.units)}")
    slots = plan.slots(workflow) if family.streams(workflow) else None
    how = _choose(how, family, slots)
    pool = plan.pool(workflow) if how == "pool" or family.resamples else None
    chain = partial(scan.chain, family, workflow, pool, slots if how != "pool" else None, how, tuple(keep))
    found = jax.sharding.get_mesh()
    mesh = None if found.empty or "data" not in found.axis_names else found
    ways = 1 if mesh is None else mesh.shape["data"]
    with jax.enable_x64(True):
        one = _bytes_of_a_seed(family, workflow, pool, how)
    size = chunk or min(LONGEST_CHUNK, max(1, CHUNK_BYTES // one))
    devices.refuse_larger(
        min(size, seeds) * one, f"a chunk of {min(size, seeds):,} seeds", "rows, sizes or chunk"
    )
    mapped = jax.vmap(chain)
    if mesh is not None:
        mapped = jax.shard_map(mapped, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False)
    base = rng.key(f"closed_form {family!r} {workflow.rows}", seed)
    return Program(mapped, mesh, ways * max(1, -(-min(size, seeds) // ways)), how, base)


def _choose(how: str, family: Family, slots: plan.Slots | None) -> str:
    if how not in HOW:
        raise BadInput(f"how={how!r} is not one of {', '.join(HOW)}")
    best = "pool" if slots is None else "statistics" if family.draws_statistics else "rows"
    if how == "auto":
        return best
    if HOW.index(how) > HOW.index(best):
        raise BadInput(
            f"how={how!r} is not possible for {type(family).__name__} and this workflow; use {best!r}"
        )
    return how


def _bytes_of_a_seed(family: Family, workflow: Workflow, pool: plan.Pool | None, how: str) -> int:
    """Roughly what one seed keeps in memory: its rows, twice for the copy that a fit reads."""
    key = jax.random.key(0)
    truth = jax.eval_shape(partial(family.truth, rows=workflow.rows), key)
    places = 0 if how == "statistics" else max(s.rows for m in workflow.mixtures for s in m.slices)
    if pool is not None:
        places = pool.size + int(pool.take.max())
    rows = jax.eval_shape(partial(family.real, rows=1), truth, key)
    size = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(rows)) * max(places, 1)
    kept = sum(a.size * 8 for a in jax.tree.leaves(truth)) + 8 * len(family.units) * workflow.generations
    return int(2 * size + kept)
