"""An experiment: arms x seeds x generations as a graph of content-addressed generations.

`plan` is pure: from the settings and the identity of the real data it knows every generation, its parents,
the steps of its fit and the rows that will be asked of it, before anything runs. Arms that share a prefix
share its generations because their recipes are equal.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from collapse_jax import config as settings_
from collapse_jax import families, rng
from collapse_jax import mesh as meshes
from collapse_jax.config import BadInput, each, entries, number, text
from collapse_jax.lineage import RECIPE_VERSION, generation_id
from collapse_jax.measures.evidence import Thresholds
from collapse_jax.measures.series import REFERENCE, reference_problems
from collapse_jax.reading import MOST, shown
from collapse_jax.sampling.writer import Writing
from collapse_jax.training.step import Training
from collapse_jax.workflows import Arm, Mixture, Workflow

SEEDS = "a tuple of whole numbers >= 0: (3,) is seed 3 alone, (0, 1, 2) are three seeds"
MOST_FITS = 1_000_000  # of an experiment: each is a folder on disk


@dataclass(frozen=True)
class Evaluation:
    """rows: held-out real rows scored, and sampled rows scored under generation 1 (0 = all)."""

    rows: int = number(0, 0)
    batch_size: int = number(64, 1, identity=False)


@dataclass(frozen=True)
class MeshShape:
    """Devices along the axes; data = -1 takes what the others leave.

    fsdp: weights and optimizer are split over `data` too, for models that one device cannot hold.
    """

    data: int = number(-1, -1, identity=False)
    model: int = number(1, 1, identity=False)
    seed: int = number(1, 1, identity=False)
    fsdp: bool = field(default=False, metadata={"identity": False})


@dataclass(frozen=True)
class Experiment:
    """Everything a chain experiment is.

    rows: n, real rows generation 1 is fitted on, and rows each generation samples (0 = all there are).
    together: fits of equal length, seeds or arms, run side by side in one program at most (0: one on a CPU, which
        a single fit fills; on other devices as many as have 32M parameters together).
    thresholds: where the definitions of collapse draw their lines; they change the report alone.
    reference: published curves, each {"label", "arm", "metric", "points": [[generation, value], ...]}.
    """

    family: str = text("transformer")
    name: str = text("experiment", identity=False)
    rows: int = number(0, 0)
    generations: int = number(5, 1)
    seeds: tuple = entries((0, 1), SEEDS)
    together: int = number(0, 0, identity=False)
    model: Any = None
    data: Any = None
    sample: Any = None
    train: Training = Training()
    evaluate: Evaluation = Evaluation()
    writing: Writing = Writing()
    mesh: MeshShape = MeshShape()
    arms: dict[str, Arm] = each(Arm)
    thresholds: Thresholds = field(default=Thresholds(), metadata={"identity": False})
    reference: tuple = entries((), REFERENCE, identity=False)

    def problems(self) -> Iterator[str]:
        if not self.arms:
            yield "arms is empty; name at least one, e.g. arms.replace.workflow = 'replace'"
        if not self.seeds or not all(type(s) is int and s >= 0 for s in self.seeds):
            yield f"seeds={shown(self.seeds)} must be {SEEDS}"
        elif len(set(self.seeds)) < len(self.seeds):
            yield f"seeds={shown(self.seeds)} repeats a seed"
        if len(self.arms) * len(self.seeds) * self.generations > MOST_FITS:
            yield (
                f"{len(self.arms)} arms x {len(self.seeds)} seeds x {self.generations} generations are more than "
                f"{MOST_FITS:,} fits; lower generations or seeds"
            )
        yield from reference_problems(self.reference)

    def on(self, make: Callable[..., Any]) -> Any:
        """The mesh that `make` makes of these settings, over which every batch can be split. Raises `BadInput`."""
        mesh, train = make(**asdict(self.mesh)), self.train
        name = "train.batch_size" + (" / train.microbatches" if train.microbatches > 1 else "")
        batches = {name: train.batch_size // train.microbatches}
        batches |= {f"{name}.batch_size": getattr(self, name).batch_size for name in ("evaluate", "writing")}
        meshes.check(mesh, batches)
        return mesh


def template(family: str = "transformer") -> Any:
    """A ConfigDict with every setting of a chain experiment of this family, for a config file to edit."""
    return settings_.template(_blank(family))


def _blank(family: str) -> Experiment:
    kind = families.kind(family)
    return Experiment(family=family, model=kind.Model(), data=kind.Data(), sample=kind.Sample())


def resolve(config: Any) -> Experiment:
    """Checked settings from a ConfigDict. Raises `BadInput` naming every problem."""
    given = settings_.as_dict(config)
    if not isinstance(given.get("family"), str):
        raise BadInput("config.family is missing; name a family, e.g. 'transformer'")
    return settings_.resolve(_blank(given["family"]), given)


@dataclass
class Node:
    """One generation of the graph.

    `parents` maps each synthetic source to its generation's id; `sample_rows` grows to what the hungriest
    child takes.
    """

    id: str
    recipe: dict[str, Any]
    generation: int
    seed: int
    mixture: Mixture
    counts: tuple[int, ...]
    steps: int
    parents: dict[int, str]
    first: str
    latest: str
    sample_rows: int
    arms: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Graph:
    """nodes: id -> Node in the order they run; ids: arm -> seed -> ids of generations 1, 2, ...

    lanes: nodes that run side by side.
    """

    nodes: dict[str, Node]
    ids: dict[str, dict[int, tuple[str, ...]]]
    workflows: dict[str, Workflow]
    lanes: int = 1

    def groups(self) -> list[list[Node]]:
        """The nodes in the order they run, those side by side together: of one generation and equally long.

        What is in a group follows from the experiment alone, never from what is already done.
        """
        return [
            nodes[at : at + self.lanes] for nodes in self._alike() for at in range(0, len(nodes), self.lanes)
        ]

    def _alike(self) -> list[list[Node]]:
        """The nodes that may run side by side: fits of one generation with equally many steps, of any seed or arm."""
        found: dict[tuple[int, int], list[Node]] = {}
        for node in self.nodes.values():
            found.setdefault((node.generation, node.steps), []).append(node)
        return list(found.values())

    def side_by_side(self, most: int, ways: int) -> "Graph":
        """This graph with as few lanes as make the steps fewest: at most `most`, in multiples of `ways`.

        Raises `BadInput`.
        """
        most = min(most, max(map(len, self._alike())))
        choices = [replace(self, lanes=lanes) for lanes in range(ways, most + 1, ways)]
        if not choices:
            raise BadInput(
                f"mesh.seed={ways} is more than the {most} fits that run side by side; lower it, or raise together, "
                "or run more seeds"
            )
        return min(choices, key=Graph.steps)

    def steps(self) -> int:
        """Steps of the trainer, each of all lanes, for the whole graph."""
        return sum(group[0].steps for group in self.groups())

    @property
    def per_arm(self) -> int:
        """Generations there would be if nothing were shared."""
        return sum(len(ids) for seeds in self.ids.values() for ids in seeds.values())


def plan(experiment: Experiment, data_digest: str, real_rows: int, init_digest: str = "") -> Graph:
    """The graph of an experiment on `real_rows` real training rows. Raises `BadInput`."""
    rows = experiment.rows or real_rows
    workflows = {
        name: Workflow(arm, rows, experiment.generations, experiment.train.epochs)
        for name, arm in experiment.arms.items()
    }
    for name, workflow in workflows.items():
        _check(experiment, name, workflow, real_rows)
    nodes: dict[str, Node] = {}
    lines: dict[tuple[str, int], list[str]] = {(a, s): [] for a in workflows for s in experiment.seeds}
    for t in range(1, experiment.generations + 1):
        for seed in experiment.seeds:
            for arm, workflow in workflows.items():
                line = lines[arm, seed]
                node = _node(experiment, workflow.mixture(t), seed, line, rows, data_digest, init_digest)
                node = nodes.setdefault(node.id, node)
                node.arms.append(arm)
                line.append(node.id)
                for s in node.mixture.slices:
                    if s.source:
                        parent = nodes[line[s.source - 1]]
                        parent.sample_rows = max(parent.sample_rows, s.start + s.rows)
    ids = {a: {s: tuple(lines[a, s]) for s in experiment.seeds} for a in workflows}
    return Graph(nodes, ids, workflows)


def _check(experiment: Experiment, arm: str, workflow: Workflow, real_rows: int) -> None:
    needed, batch = workflow.rows_needed(0), experiment.train.batch_size
    if needed > real_rows:
        raise BadInput(
            f"arm {arm!r} needs {needed} real training rows and there are {real_rows}; lower config.rows"
        )
    steps = max(m.budget for m in workflow.mixtures) // batch
    if steps > MOST:
        raise BadInput(f"arm {arm!r} fits for {steps:,} steps, more than {MOST:,}; lower config.train.epochs")
    least = min(workflow.mixtures, key=lambda m: m.budget)
    if least.budget < batch:
        raise BadInput(
            f"arm {arm!r}: generation {least.generation} draws {least.budget} rows, less than one batch of "
            f"{batch}; lower config.train.batch_size or raise config.rows or config.train.epochs"
        )


def left_out(experiment: Experiment, graph: Graph) -> list[str]:
    """In words, the rows that fits do not draw because every step takes a whole batch."""
    size = experiment.train.batch_size
    rest = {arm: max(m.budget % size for m in w.mixtures) for arm, w in graph.workflows.items()}
    arms = ", ".join(f"{arm} {rows}" for arm, rows in rest.items() if rows)
    return (
        [f"rows beyond the last whole batch of {size}, not drawn, at most in a fit of: {arms}"]
        if arms
        else []
    )


def _node(
    experiment: Experiment,
    mixture: Mixture,
    seed: int,
    line: list[str],
    rows: int,
    data_digest: str,
    init_digest: str,
) -> Node:
    t = mixture.generation
    parents = {s.source: line[s.source - 1] for s in mixture.slices if s.source}
    counts = mixture.counts(rng.host("subset", seed, t))
    steps = mixture.budget // experiment.train.batch_size
    init = experiment.train.init
    weights = (
        line[-1] if init == "parent" and line else init_digest if init not in ("fresh", "parent") else "fresh"
    )
    same = settings_.identity(experiment)
    recipe = {
        "version": RECIPE_VERSION,
        "family": experiment.family,
        "model": same["model"],
        "sample": same["sample"],
        "train": {k: v for k, v in same["train"].items() if k not in ("epochs", "init")},
        "weights": weights,
        "evaluate": same["evaluate"],
        "data": data_digest,
        "rows": rows,
        "seed": seed,
        "generation": t,
        "steps": steps,
        "first": line[0] if line else None,
        "mixture": [
            {
                "source": parents.get(s.source, "real"),
                "number": s.source,
                "start": s.start,
                "rows": s.rows,
                "used": used,
            }
            for s, used in zip(mixture.slices, counts, strict=True)
        ],
    }
    name = generation_id(recipe)
    return Node(
        name,
        recipe,
        t,
        seed,
        mixture,
        counts,
        steps,
        parents,
        line[0] if line else name,
        line[-1] if line else name,
        rows,
    )
