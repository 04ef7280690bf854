"""The chain engine: the stages of one generation - fit, evaluate, sample, measure, commit - each idempotent.

It knows families by their protocol alone. Every stage first asks the generation's journal whether it is done,
so the same call starts a generation, resumes it, mends it or finds nothing to do.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collapse_jax import faults, rng
from collapse_jax import mesh as meshes
from collapse_jax.console import Bar, Rate, loud
from collapse_jax.data import mixture
from collapse_jax.data.records import RowSource
from collapse_jax.experiment import Experiment, Graph, Node
from collapse_jax.families import Family
from collapse_jax.lanes import stack
from collapse_jax.lineage import Generation
from collapse_jax.metrics import Curves, Timings
from collapse_jax.provenance import device, versions
from collapse_jax.sampling import writer
from collapse_jax.training import loop
from collapse_jax.training.evaluate import Evaluator
from collapse_jax.training.step import State, Trainer

SHOWN = 512  # rows that a family is given to make something of for people to look at
LINES = 8  # and the lines of it that are kept
BATCH = 4096


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
        self.timings, self.workdir = Timings(workdir / "timings.jsonl"), workdir
        lanes = graph.lanes
        self.trainer = Trainer(family, experiment.train, mesh, lanes)
        self.evaluator = Evaluator(family, mesh, lanes)
        self.sampler = writer.Sampler(family, experiment.writing, mesh, lanes)
        self.real = dataset.rows("train")
        self.test = dataset.rows("test")
        self.trusted: set[str] = set()
        self.reached: dict[str, Generation] = {}  # as they were when this run brought them to their commits

    def generation(self, name: str) -> Generation:
        """The folder of a node, as far as it has come."""
        return Generation(self.store, self.graph.nodes[name].recipe).read()

    def advance(self, nodes: Sequence[Node], later_s: Callable[[], float | None]) -> list[Generation]:
        """Bring a group of generations, equally long fits, to their commits, side by side."""
        lanes = [Lane(node, self._ready(node)) for node in nodes]
        open_ = [lane for lane in lanes if not lane.generation.committed or self._hungry(lane)]
        if open_:
            for lane in open_:
                if lane.generation.committed:
                    lane.generation.reopen()
                lane.generation.start()
            self._fit(open_, later_s)
            models = Models(self.trainer)
            self._evaluate(open_, models)
            self._sample(open_, models, later_s)
            self._measure(open_)
            for lane in open_:
                self._commit(lane)
        self.reached |= {lane.generation.id: lane.generation for lane in lanes}
        return [lane.generation for lane in lanes]

    def _ready(self, node: Node) -> Generation:
        """The generation of a node with nothing in it that is stale or damaged, and sound parents."""
        generation = self.generation(node.id)
        self._refuse_stale(node, generation)
        generation.mend(contents=not generation.committed)
        if not generation.committed or self._hungry(Lane(node, generation)):
            for parent in {*node.parents.values(), node.first, node.latest} - {node.id}:
                self._trust(parent)
        return generation

    def _trust(self, name: str) -> None:
        """Re-hash a parent once before its rows and weights are used; a damaged one is made again first."""
        if name in self.trusted:
            return
        generation = self.generation(name)
        generation.mend(contents=True)
        if not generation.committed:
            self.advance([self.graph.nodes[name]], lambda: None)
        self.trusted.add(name)

    def _hungry(self, lane: "Lane") -> bool:
        have = sum(said["rows"] for _, said in lane.generation.shards())
        return have < lane.node.sample_rows and not lane.diverged

    def _refuse_stale(self, node: Node, generation: Generation) -> None:
        """Set a generation aside whose parents' rows are no longer those it was fitted on."""
        fitted_on = (generation.result("fit") or {}).get("inputs")
        if fitted_on is None or fitted_on == self._inputs(node):
            return
        loud(f"generation {node.id} was fitted on rows its parents no longer hold")
        generation.set_aside("stale")

    def _inputs(self, node: Node) -> dict[str, list[str]]:
        """Digests of the synthetic shards a fit reads, by parent."""
        taken = {node.parents[s.source]: s.start + s.rows for s in node.mixture.slices if s.source}
        return {
            name: (self.reached.get(name) or self.generation(name)).shards_covering(rows)
            for name, rows in taken.items()
        }

    def _fit(self, lanes: Sequence["Lane"], later_s: Callable[[], float | None]) -> None:
        todo = [lane for lane in lanes if lane.generation.result("fit") is None]
        if not todo:
            return
        steps, (item, per_row) = todo[0].node.steps, self.family.items
        rate = Rate(len(todo) * self.experiment.train.batch_size * per_row)
        with ExitStack() as opened:
            bar = opened.enter_context(closing(Bar(_title(todo, "fit"), steps, "steps")))
            fits = []
            for lane in todo:
                curves = opened.enter_context(closing(Curves(self.workdir, lane.generation.id)))

                def report(step: int, values: dict[str, float], curves: Curves = curves) -> None:
                    curves.write(step, values)
                    bar.update(step, f"loss {values['loss']:.4f}  {rate(step):,.0f} {item}/s", later_s())

                fits.append(self._plan_fit(lane, curves.begin, report))
            ids = [lane.generation.id for lane in todo]
            with self.timings.stage("fit", ids, lambda: steps * len(todo)):
                loop.fit(self.trainer, fits, steps, lambda: self._begin([lane.node for lane in todo]))

    def _plan_fit(self, lane: "Lane", begin: Callable, report: Callable) -> loop.Fit:
        node = lane.node
        drawn = mixture.realised(node.counts, node.steps * self.experiment.train.batch_size)
        return loop.Fit(
            lane.generation,
            rng.key("loss", node.seed, node.generation),
            lambda step: self._batches(node, step),
            begin,
            report,
            {"inputs": self._inputs(node), "drawn": list(drawn)},
        )

    def _begin(self, nodes: Sequence[Node]) -> State:
        weights = [node.recipe["weights"] for node in nodes]
        if weights[0] == "fresh":
            keys = [self.trainer.fresh_key(node.seed, node.generation) for node in nodes]
            return self.trainer.init(stack(keys, self.trainer.lanes))
        given = Path(self.experiment.train.init)
        parents = {w: Lane(self.graph.nodes[w], self.generation(w)) for w in weights if w in self.graph.nodes}
        models = [loop.load(self.trainer, parents[w].fitted if w in parents else given) for w in weights]
        return self.trainer.start(stack(models, self.trainer.lanes))

    @contextmanager
    def _batches(self, node: Node, step: int) -> Iterator[Iterator[dict[str, Any]]]:
        """The training batches of a node from a step on, and the shards they come from, open for as long."""
        size = self.experiment.train.batch_size
        seed, draws = (node.seed, node.generation), node.steps * size
        with ExitStack() as opened:
            parts = []
            for s in node.mixture.slices:
                rows = self.real
                if s.source:
                    rows = opened.enter_context(self._samples(node.parents[s.source]))
                parts.append((rows, s.start, s.rows))
            yield opened.enter_context(
                mixture.Batches(parts, node.counts, draws, size, seed, step, meshes.held(self.mesh, size))
            )

    def _samples(self, name: str) -> RowSource:
        shards = self.generation(name).shards()
        return RowSource([(path, said["rows"]) for path, said in shards], self.family.spec)

    def _evaluate(self, lanes: Sequence["Lane"], models: "Models") -> None:
        todo = [x for x in lanes if x.generation.result("evaluate") is None and not x.diverged]
        if not todo:
            return
        ids = [lane.generation.id for lane in todo]
        with self.timings.stage("evaluate", ids, lambda: len(self.test) * len(todo)):
            found = self.evaluator(models.of(todo), [self._in_order(self.test) for _ in todo])
        faults.point("evaluate/end")
        for lane, metrics in zip(todo, found, strict=True):
            lane.generation.finish("evaluate", {"metrics": self.family.derive(metrics)})

    def _in_order(self, source: RowSource, rows: int = 0) -> Iterator[Any]:
        rows = min(self.experiment.evaluate.rows or len(source), rows or len(source))
        size = self.experiment.evaluate.batch_size
        return mixture.in_order(source, 0, rows, size, meshes.held(self.mesh, size))

    def _sample(self, lanes: Sequence["Lane"], models: "Models", later_s: Callable[[], float | None]) -> None:
        def due(lane: Lane) -> bool:
            return (lane.generation.result("sample") is None or self._hungry(lane)) and not lane.diverged

        todo = [lane for lane in lanes if due(lane)]
        if not todo:
            return
        ids, rows = [lane.generation.id for lane in todo], [lane.node.sample_rows for lane in todo]
        with (
            closing(Bar(_title(todo, "sample"), sum(rows), "rows")) as bar,
            self.timings.stage("sample", ids, lambda: sum(rows)),
        ):
            whole = writer.write(
                self.sampler,
                models.of(todo),
                [lane.generation for lane in todo],
                self.real,
                rows,
                lambda count: bar.update(count, later_s=later_s()),
            )
        for lane, finite in zip(todo, whole, strict=True):
            lane.generation.finish("sample", {"diverged_at": None if finite else "sampling"})

    def _measure(self, lanes: Sequence["Lane"]) -> None:
        todo = [x for x in lanes if x.generation.result("measure") is None and not x.diverged]
        if not todo:
            return
        ids, rows = [lane.generation.id for lane in todo], todo[0].node.recipe["rows"]
        with self.timings.stage("measure", ids, lambda: rows * len(todo)), ExitStack() as opened:
            samples = [opened.enter_context(self._samples(lane.node.id)) for lane in todo]
            nodes = [self.graph.nodes[lane.node.first] for lane in todo]
            first = Models(self.trainer).of([Lane(n, self.generation(n.id)) for n in nodes])
            scored = self.evaluator(first, [self._in_order(source, rows) for source in samples])
            for lane, source, found in zip(todo, samples, scored, strict=True):
                metrics, shown = self._judge(lane, source, rows)
                metrics["sample_loss_under_first"] = found["test_loss"]
                lane.generation.write("show.json", shown)
                faults.point("measure/end")
                lane.generation.finish("measure", {"metrics": metrics})

    def _judge(self, lane: "Lane", samples: RowSource, rows: int) -> tuple[dict[str, float], dict[str, Any]]:
        """What the family makes of a generation: its metrics and what people look at."""
        model = loop.load(self.trainer, lane.fitted)
        metrics = self.family.measure(model, Whole(samples, rows), Whole(self.real, rows), Whole(self.test))
        drawn, real = (source.read(0, min(SHOWN, len(source))) for source in (samples, self.real))
        shown = self.family.show(model, drawn, real, rng.key("show", lane.node.seed))
        return metrics, shown | {name: shown[name][:LINES] for name in ("lines", "prompts") if name in shown}

    def _commit(self, lane: "Lane") -> None:
        node, generation = lane.node, lane.generation
        with self.timings.stage("commit", [generation.id], lambda: 1):
            fit = generation.result("fit") or {}
            metrics = {"train_loss": {"value": fit["train_loss"], "split": "mixture"}}
            for stage, split in (("evaluate", "real_test"), ("measure", "synthetic")):
                for name, value in (generation.result(stage) or {"metrics": {}})["metrics"].items():
                    metrics[name] = {"value": value, "split": split}
            metrics.setdefault("test_loss", {"value": None, "split": "real_test"})
            generation.write("metrics.json", metrics)
            generation.commit(
                {
                    "status": "diverged" if lane.diverged else "committed",
                    "parents": sorted(node.parents.values()),
                    "parameters": fit["parameters"],
                    "rows": node.sample_rows,
                    "versions": versions(),
                    "device": device(),
                    "mesh": dict(self.mesh.shape),
                }
            )


@dataclass(frozen=True)
class Lane:
    """A node at work and its folder."""

    node: Node
    generation: Generation

    @property
    def fitted(self) -> Path:
        return self.generation.path / "checkpoint" / "fitted"

    @property
    def diverged(self) -> bool:
        """Whether a stage met a number that is not finite."""
        results = self.generation.state["stages"].values()
        return any(result.get("diverged_at") is not None for result in results)


class Models:
    """The fitted models of some lanes side by side; those asked for last are kept."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self.loaded: tuple[list[str], Any] = ([], None)

    def of(self, lanes: Sequence[Lane]) -> Any:
        """The models of these lanes [G, ...]."""
        ids = [lane.node.id for lane in lanes]
        if self.loaded[0] != ids:
            models = [loop.load(self.trainer, lane.fitted) for lane in lanes]
            self.loaded = ids, stack(models, self.trainer.lanes)
        return self.loaded[1]


class Whole:
    """The first rows of a source in batches, as often as they are asked for."""

    def __init__(self, source: RowSource, rows: int = 0):
        self.source, self.rows = source, min(rows or len(source), len(source))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for first in range(0, self.rows, BATCH):
            yield self.source.read(first, min(first + BATCH, self.rows))


def _title(lanes: Sequence[Lane], stage: str) -> str:
    node, seeds = lanes[0].node, ", ".join(str(lane.node.seed) for lane in lanes)
    return f"{stage} generation {node.generation}, seed {seeds} [{', '.join(node.arms)}]"
