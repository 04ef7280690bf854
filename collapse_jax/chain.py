"""The chain engine: the stages of one generation - fit, evaluate, sample, measure, commit - each idempotent.

It knows families by their protocol alone. Every stage first asks the generation's journal whether it is done,
so the same call starts a generation, resumes it, mends it or finds nothing to do.
"""

import hashlib
import platform
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import jax
from flax import nnx

from collapse_jax import __version__, faults, files, rng
from collapse_jax.config import BadInput
from collapse_jax.console import Bar, loud
from collapse_jax.data import mixture
from collapse_jax.data.records import RowSource
from collapse_jax.experiment import Experiment, Graph, Node
from collapse_jax.families import Family
from collapse_jax.lineage import Generation
from collapse_jax.metrics import Curves, Timings
from collapse_jax.sampling import writer
from collapse_jax.training import loop
from collapse_jax.training.evaluate import Evaluator
from collapse_jax.training.step import State, Trainer

SHOWN = 8  # sampled rows kept as text for people


class Chain:
    """The compiled programs of one experiment and the folder they work in."""

    def __init__(
        self,
        experiment: Experiment,
        family: Family,
        dataset: Any,
        graph: Graph,
        mesh: Any,
        store: Path,
        workdir: Path,
    ):
        self.experiment, self.family, self.dataset, self.graph = experiment, family, dataset, graph
        self.store, self.mesh = store, mesh
        self.timings = Timings(workdir / "timings.jsonl")
        self.logs = workdir / "logs"
        self.trainer = Trainer(family, experiment.train, mesh)
        self.evaluator = Evaluator(family, mesh)
        self.sampler = writer.Sampler(family, experiment.writing, mesh)
        self.real = dataset.rows("train")
        self.test = dataset.rows("test")
        self.first: tuple[str, nnx.Module] | None = None
        self.trusted: set[str] = set()

    def generation(self, name: str) -> Generation:
        """The folder of a node, as far as it has come."""
        return Generation(self.store, self.graph.nodes[name].recipe).read()

    def advance(self, node: Node, later_s: Callable[[], float | None]) -> Generation:
        """Bring one generation to its commit; returns at once when there is nothing to do."""
        generation = self.generation(node.id)
        self._refuse_stale(node, generation)
        generation.mend(contents=not generation.committed)
        if generation.committed and not self._hungry(node, generation):
            return generation
        for parent in {*node.parents.values(), node.first, node.latest} - {node.id}:
            self._trust(parent)
        if generation.committed:
            generation.reopen()
        generation.start()
        state = self._fit(node, generation, later_s)
        if not diverged(generation):
            self._evaluate(node, generation, state)
            self._sample(node, generation, state, later_s)
        if not diverged(generation):
            self._measure(node, generation)
        self._commit(node, generation)
        return generation

    def _trust(self, name: str) -> None:
        """Re-hash a parent once before its rows and weights are used; a damaged one is made again first."""
        if name in self.trusted:
            return
        generation = self.generation(name)
        generation.mend(contents=True)
        if not generation.committed:
            self.advance(self.graph.nodes[name], lambda: None)
        self.trusted.add(name)

    def _hungry(self, node: Node, generation: Generation) -> bool:
        have = sum(said["rows"] for _, said in generation.shards())
        return have < node.sample_rows and not diverged(generation)

    def _refuse_stale(self, node: Node, generation: Generation) -> None:
        """Set a generation aside whose parents' rows are no longer those it was fitted on."""
        fitted_on = (generation.result("fit") or {}).get("inputs")
        if fitted_on is None or fitted_on == self._inputs(node):
            return
        aside = files.set_aside(generation.path, "stale")
        loud(f"generation {node.id} was fitted on rows its parents no longer hold; set aside as {aside.name}")
        generation.state, generation.committed = {"files": {}, "stages": {}}, False

    def _inputs(self, node: Node) -> dict[str, list[str]]:
        """Digests of the synthetic shards a fit reads, by parent."""
        taken = {node.parents[s.source]: s.start + s.rows for s in node.mixture.slices if s.source}
        return {name: self.generation(name).shards_covering(rows) for name, rows in taken.items()}

    def _title(self, node: Node, stage: str) -> str:
        return f"{stage} generation {node.generation}, seed {node.seed} [{', '.join(node.arms)}]"

    def _fit(self, node: Node, generation: Generation, later_s: Callable[[], float | None]) -> State:
        if generation.result("fit") is not None:
            folder = generation.path / "checkpoint" / "fitted"
            return {"model": loop.load(self.trainer, folder)} if self._needs_model(node, generation) else {}
        size = self.experiment.train.batch_size
        bar = Bar(self._title(node, "fit"), node.steps, "steps")
        curves = Curves(self.logs, generation.id)
        item, per_row = self.family.items
        started_s = perf_counter()
        began: list[int] = []

        def report(step: int, values: dict[str, float]) -> None:
            curves.write(step, values)
            began[:] = began or [step]
            rate = (step - began[0]) * size * per_row / max(perf_counter() - started_s, 1e-9)
            bar.update(step, f"loss {values['loss']:.4f}  {rate:,.0f} {item}/s", later_s())

        drawn = mixture.realised(node.counts, node.steps * size)
        plan = loop.Fit(
            node.steps,
            rng.key("loss", node.seed, node.generation),
            lambda step: self._batches(node, step),
            lambda: self._begin(node),
            report,
            {"inputs": self._inputs(node), "drawn": list(drawn)},
        )
        try:
            with self.timings.stage("fit", generation.id, lambda: node.steps):
                return loop.fit(self.trainer, generation, plan)
        finally:
            curves.close()
            bar.close()

    def _begin(self, node: Node) -> State:
        weights = node.recipe["weights"]
        if weights == "fresh":
            return self.trainer.init(self.trainer.fresh_key(node.seed, node.generation))
        folder = Path(self.experiment.train.init)
        if weights in self.graph.nodes:
            folder = self.generation(weights).path / "checkpoint" / "fitted"
        return self.trainer.start(loop.load(self.trainer, folder))

    @contextmanager
    def _batches(self, node: Node, step: int) -> Iterator[Iterator[dict[str, Any]]]:
        """The training batches of a node from a step on, and the shards they come from, open for as long."""
        size, processes = self.experiment.train.batch_size, jax.process_count()
        seed, draws = (node.seed, node.generation), node.steps * self.experiment.train.batch_size
        with ExitStack() as stack:
            parts = []
            for s in node.mixture.slices:
                rows = self.real
                if s.source:
                    rows = stack.enter_context(self._samples(node.parents[s.source]))
                parts.append((rows, s.start, s.rows))
            yield stack.enter_context(
                mixture.Batches(parts, node.counts, draws, size, seed, step, jax.process_index(), processes)
            )

    def _samples(self, name: str) -> RowSource:
        shards = self.generation(name).shards()
        return RowSource([(path, said["rows"]) for path, said in shards], self.family.spec)

    def _needs_model(self, node: Node, generation: Generation) -> bool:
        done = all(generation.result(s) is not None for s in ("evaluate", "sample"))
        return not done or self._hungry(node, generation)

    def _evaluate(self, node: Node, generation: Generation, state: State) -> None:
        if generation.result("evaluate") is not None:
            return
        with self.timings.stage("evaluate", generation.id, lambda: len(self.test)):
            found = self.family.derive(self.evaluator(state["model"], self._held_out(self.test)))
        faults.point("evaluate/end")
        generation.finish("evaluate", {"metrics": found})

    def _held_out(self, source: RowSource) -> Iterator[Any]:
        rows = min(self.experiment.evaluate.rows or len(source), len(source))
        return mixture.in_order(source, 0, rows, self.experiment.evaluate.batch_size)

    def _sample(
        self, node: Node, generation: Generation, state: State, later_s: Callable[[], float | None]
    ) -> None:
        if generation.result("sample") is not None and not self._hungry(node, generation):
            return
        bar = Bar(self._title(node, "sample"), node.sample_rows, "rows")
        try:
            with self.timings.stage("sample", generation.id, lambda: node.sample_rows):
                whole = writer.write(
                    self.sampler,
                    state["model"],
                    generation,
                    self.real,
                    node.sample_rows,
                    lambda rows: bar.update(rows, later_s=later_s()),
                )
        finally:
            bar.close()
        generation.finish("sample", {"diverged_at": None if whole else "sampling"})

    def _measure(self, node: Node, generation: Generation) -> None:
        if generation.result("measure") is not None:
            return
        rows = node.recipe["rows"]
        asked = min(self.experiment.evaluate.rows or rows, rows)
        with self.timings.stage("measure", generation.id, lambda: rows), self._samples(node.id) as samples:
            found = self.family.measure(_batches(samples, rows), _batches(self.real, rows))
            scored = mixture.in_order(samples, 0, asked, self.experiment.evaluate.batch_size)
            found["sample_loss_under_first"] = self.evaluator(self._first(node), scored)["test_loss"]
            shown = {"lines": [self.family.show(samples[i]) for i in range(min(SHOWN, len(samples)))]}
        files.write_json(generation.path / "show.json", shown)
        generation.journal([generation.path / "show.json"])
        faults.point("measure/end")
        generation.finish("measure", {"metrics": found})

    def _first(self, node: Node) -> nnx.Module:
        """The model of generation 1 of this lineage, kept while nodes ask for the same."""
        if self.first is None or self.first[0] != node.first:
            folder = self.generation(node.first).path / "checkpoint" / "fitted"
            self.first = (node.first, loop.load(self.trainer, folder))
        return self.first[1]

    def _commit(self, node: Node, generation: Generation) -> None:
        with self.timings.stage("commit", generation.id, lambda: 1):
            fit = generation.result("fit") or {}
            metrics = {"train_loss": {"value": fit["train_loss"], "split": "mixture"}}
            for stage, split in (("evaluate", "real_test"), ("measure", "synthetic")):
                for name, value in (generation.result(stage) or {"metrics": {}})["metrics"].items():
                    metrics[name] = {"value": value, "split": split}
            metrics.setdefault("test_loss", {"value": None, "split": "real_test"})
            files.write_json(generation.path / "metrics.json", metrics)
            generation.journal([generation.path / "metrics.json"])
            generation.commit(
                {
                    "status": "diverged" if diverged(generation) else "committed",
                    "parents": sorted(node.parents.values()),
                    "parameters": fit["parameters"],
                    "rows": node.sample_rows,
                    "versions": versions(),
                    "device": device(),
                    "mesh": dict(self.mesh.shape),
                }
            )


def diverged(generation: Generation) -> bool:
    """Whether a stage met a number that is not finite."""
    return any(result.get("diverged_at") is not None for result in generation.state["stages"].values())


def _batches(source: RowSource, rows: int, size: int = 4096) -> Iterator[dict[str, Any]]:
    """The first `rows` rows in batches."""
    for first in range(0, min(rows, len(source)), size):
        yield source.read(first, min(first + size, rows, len(source)))


def versions() -> dict[str, str]:
    """What the results were made with: recorded, never part of an identity."""
    import flax
    import numpy
    import optax

    return {
        "collapse_jax": __version__,
        "jax": jax.__version__,
        "flax": flax.__version__,
        "optax": optax.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
    }


def device() -> str:
    """The accelerators of this process, in words."""
    found = jax.devices()
    return f"{len(found)} x {found[0].device_kind}"


def weights_digest(init: str) -> str:
    """The identity of a checkpoint folder given as initial weights. Raises `BadInput`."""
    total = hashlib.sha256()
    arrays = [p for p in files.below(Path(init)) if "c" in p.relative_to(init).parts]
    if not arrays:
        raise BadInput(f"config.train.init={init!r} is neither 'fresh', 'parent' nor a checkpoint folder")
    for path in arrays:
        total.update(f"{path.relative_to(init).as_posix()} {files.sha256(path)}\n".encode())
    return total.hexdigest()
