"""`collapse run`: from settings to committed generations, records and report, doing only what is missing."""

import contextlib
import dataclasses
import json
import math
import os
import resource
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from collapse_jax import config as settings_
from collapse_jax import (
    devices,
    families,
    faults,
    files,
    interrupt,
    processes,
    provenance,
    report,
)
from collapse_jax import mesh as meshes
from collapse_jax import workdir as workdirs
from collapse_jax.chain import Chain
from collapse_jax.config import BadInput
from collapse_jax.console import duration, loud, say
from collapse_jax.data.dataset import summary
from collapse_jax.data.records import row_dtype
from collapse_jax.experiment import Experiment, Graph, Node, left_out, plan
from collapse_jax.lineage import Generation
from collapse_jax.metrics import compilations

REPORT_SHARE = 0.03  # of the run's time at most goes into rebuilding the report while it runs
OPEN_FILES = 10_240  # as far as macOS goes
TOGETHER = 32_000_000  # parameters trained side by side: enough to fill a chip, small beside its memory


def run(experiment: Experiment, workdir: Path, store: Path | None = None) -> int:
    """Run or resume; exit code 0 when every generation is committed. Raises `BadInput`, `Interrupted`."""
    store = (store or workdir).resolve()
    _open_many_files()
    mesh = experiment.on(meshes.make)
    with ExitStack() as stack:

        def own() -> None:
            stack.enter_context(workdirs.owned(workdir, store))
            if processes.count() > 1:  # made by one, without the others' devices, and found by all
                jax.set_mesh(None)
                families.kind(experiment.family).prepare(experiment.data, store)
                jax.set_mesh(mesh)

        processes.shared(own)
        stack.enter_context(interrupt.caught())
        code = Run(experiment, workdir, store, mesh).all()
        processes.barrier("end")
        return code


def _open_many_files() -> None:
    """As many as the system allows: a late generation of `accumulate` reads the shards of all before it."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (most, OPEN_FILES):  # macOS calls its hard limit infinite and refuses to go so far
        if now != resource.RLIM_INFINITY and (limit == resource.RLIM_INFINITY or limit > now):
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
                return


def prepare(
    experiment: Experiment, store: Path, workdir: Path | None = None
) -> tuple[Any, families.Family, Graph]:
    """Real rows, family and graph of an experiment; imports the data when they are not there yet.

    workdir: one whose experiment was run on the same settings of the data: the rows it was run on are taken, and
    nothing is asked of the original data and weights.
    """
    kind = families.kind(experiment.family)
    data, known = experiment.data, _known(experiment, workdir) if workdir else {}
    if known and hasattr(data, "source"):
        data = dataclasses.replace(data, source=f"rows:{known['rows']}")
    dataset = kind.prepare(data, store)
    if known and dataset.digest != known["digest"]:
        raise BadInput(
            f"{known['rows']} holds other rows than {workdir} was run on; run the experiment again"
        )
    family = kind.build(experiment.model, experiment.data, experiment.sample, dataset)
    weights = known["weights"] if known else _weights(experiment)
    graph = plan(experiment, dataset.digest, len(dataset.rows("train")), weights)
    return dataset, family, graph.side_by_side(_together(experiment, family), experiment.mesh.seed)


def _weights(experiment: Experiment) -> str:
    """The digest of the weights that the first fits begin with, "" where these are not given."""
    init = experiment.train.init
    return "" if init in ("fresh", "parent") else provenance.weights_digest(init)


def _known(experiment: Experiment, workdir: Path) -> dict[str, str]:
    """Where the rows are that the workdir's experiment was run on, if from these settings, with the digests."""
    if not (workdir / workdirs.EXPERIMENT).exists():
        return {}
    said = workdirs.read(workdir)
    config, asked = said.get("config", {}), files.finite(settings_.template(experiment).to_dict())
    same = all(config.get(part) == asked[part] for part in ("family", "data"))
    same = same and config["train"].get("init") == experiment.train.init
    return (
        said["data"] | {"rows": str((workdir / said["data"]["rows"]).resolve())}
        if same and "data" in said
        else {}
    )


def _together(experiment: Experiment, family: families.Family) -> int:
    """Fits that may run side by side."""
    if experiment.together:
        return experiment.together
    if jax.default_backend() == "cpu":
        return experiment.mesh.seed
    return max(experiment.mesh.seed, TOGETHER // _parameters(family))


def _parameters(family: families.Family) -> int:
    return sum(x.size for x in jax.tree.leaves(jax.eval_shape(lambda: family.init(nnx.Rngs(0)))))


def refuse_absurd(experiment: Experiment, family: families.Family) -> None:
    """Raises `BadInput` where a model or a batch is larger than all memory, before any of it is made."""
    count = _parameters(family)
    with_optimizer = 3 * 4 * count  # float32 weights and the two moments of Adam
    devices.refuse_larger(with_optimizer, f"a model of {count:,} parameters", "the sizes in config.model")
    row = row_dtype(family.spec).itemsize
    for name in ("train", "evaluate", "writing"):
        size = getattr(experiment, name).batch_size
        devices.refuse_larger(size * row, f"a batch of {size:,} rows", f"config.{name}.batch_size")


class Run:
    """One invocation: walks the graph in order of generation and keeps the workdir's files up to date."""

    def __init__(self, experiment: Experiment, workdir: Path, store: Path, mesh: Any):
        self.experiment, self.workdir, self.store = experiment, workdir, store
        dataset, family, self.graph = prepare(experiment, store)
        refuse_absurd(experiment, family)
        self.family, self.dataset = family, dataset
        # the chain's own measure, in the unit of the family's loss
        self.units = {"sample_loss_under_first": family.units["test_loss"], **family.units}
        self.chain = Chain(experiment, family, dataset, self.graph, mesh, store, workdir)
        self.status = {name: self._status(name) for name in self.graph.nodes}
        self.lines: dict[str, list[dict[str, Any]]] = {}
        self.compiled: dict[int, int] = {}
        self.reported = (-math.inf, 0.0)

    def _status(self, name: str) -> str:
        generation = self.chain.generation(name)
        return generation.manifest["status"] if generation.committed else "missing"

    def all(self) -> int:
        self._say_changes()
        self._write_derived()
        self._introduce()
        began = time.perf_counter()
        groups = self.graph.groups()
        for at, group in enumerate(groups):
            interrupt.poll()
            blocked = [node for node in group if self._blocked(node)]
            self.status |= {node.id: "blocked" for node in blocked}
            free = [node for node in group if node not in blocked]
            if not free:
                continue
            before, t = compilations(), group[0].generation
            later = [node for following in groups[at + 1 :] for node in following]
            generations = self.chain.advance(free, lambda later=later: self._estimate(later))
            self.compiled[t] = self.compiled.get(t, 0) + compilations() - before
            status = {g.id: g.manifest["status"] for g in generations}
            news = [node for node in free if self.status[node.id] != status[node.id]]
            self.status |= status
            for node in news:
                self._tell(node, later)
            if news:
                self._write(last=False)
        self._write(last=True)
        if processes.lead():
            say(report.conclusion(self.workdir))
        first, later = self.compiled.get(1, 0), sum(n for t, n in self.compiled.items() if t > 1)
        say(
            f"{duration(time.perf_counter() - began)}; compiled {first} programs for generation 1, {later} after it"
        )
        say(f"report: {self.workdir / 'report.html'}")
        return self._exit_code()

    def _exit_code(self) -> int:
        blocked = sum(s == "blocked" for s in self.status.values())
        diverged = [n for n in self.graph.nodes.values() if self.status[n.id] == "diverged"]
        for node in diverged:
            loud(f"{', '.join(node.arms)} diverged at generation {node.generation}, seed {node.seed}")
        if blocked:
            loud(
                f"{blocked} generations were not run because an ancestor diverged; lower train.learning_rate"
            )
        return 1 if blocked else 0

    def _blocked(self, node: Node) -> bool:
        needed = {*node.parents.values(), node.first} - {node.id}
        return any(self.status[p] in ("diverged", "blocked") for p in needed)

    def _say_changes(self) -> None:
        """Name the settings that differ from those this workdir was last run with."""
        path = self.workdir / workdirs.EXPERIMENT
        if not path.exists() or not processes.lead():
            return
        try:
            before = workdirs.read(self.workdir)["config"]
        except (BadInput, KeyError) as error:
            aside = files.set_aside(path, "damaged")
            loud(f"{error}; set aside as {aside.name} and written again")
            return
        old, new = _flat(before), _flat(files.finite(settings_.template(self.experiment).to_dict()))
        changes = [
            f"{k}: {old.get(k)} -> {new.get(k)}" for k in sorted({*old, *new}) if old.get(k) != new.get(k)
        ]
        if changes:
            loud(
                f"settings changed since the last run here ({'; '.join(changes)}); what they touch is run anew, "
                "what was there stays in the store"
            )

    def _real_data(self) -> dict[str, Any]:
        """What people should know of the real rows and of what of them is used."""
        known = summary(self.chain.dataset)
        return {**known, "notes": [*known["notes"], *left_out(self.experiment, self.graph)]}

    def _introduce(self) -> None:
        from clu import parameter_overview

        data = self._real_data()
        say("; ".join([f"data: {data['source']}", *(f"{title}: {x}" for title, x in data["about"].items())]))
        for note in data["notes"]:
            say(f"note: {note}")
        for warning in data["warnings"]:
            loud(warning)
        graph, done = self.graph, sum(s == "committed" for s in self.status.values())
        model = self.chain.trainer.abstract["model"]
        tree = {
            jax.tree_util.keystr(path, simple=True, separator="/"): leaf
            for path, leaf in jax.tree.leaves_with_path(model)
        }
        say(parameter_overview.get_parameter_overview(tree, include_stats=False))
        say(
            f"{self.experiment.name}: {len(self.experiment.arms)} arms x {len(self.experiment.seeds)} seeds x "
            f"{self.experiment.generations} generations = {graph.per_arm} fits, {graph.per_arm - len(graph.nodes)} "
            f"shared, {done} done, {len(graph.nodes) - done} to run on {provenance.device()}"
        )

    def _tell(self, node: Node, later: list[Node]) -> None:
        metrics = self._metrics(node.id)
        loss = metrics["test_loss"]["value"]
        result = "diverged" if loss is None else f"test loss {loss:.4f} {self.units['test_loss']}"
        left = self._estimate(later)
        ahead = f"; about {duration(left)} left" if left is not None and later else ""
        say(f"generation {node.generation}, seed {node.seed} [{', '.join(node.arms)}]: {result}{ahead}")

    def _estimate(self, nodes: list[Node]) -> float | None:
        """Seconds for these nodes at the rates timed so far, None before there are any."""
        total = 0.0
        for node in (n for n in nodes if self.status[n.id] == "missing"):
            for stage, units in (
                ("fit", node.steps),
                ("evaluate", len(self.chain.test)),
                ("sample", node.sample_rows),
                ("measure", node.recipe["rows"]),
                ("commit", 1),
            ):
                found = self.chain.timings.estimate(stage, units)
                if found is None:
                    return None
                total += found
        return total

    def _metrics(self, name: str) -> dict[str, Any]:
        # Process 0 asks alone when it writes the records.
        return Generation(self.store, self.graph.nodes[name].recipe).look().json("metrics.json")

    def _records(self) -> Iterator[dict[str, Any]]:
        """Every measurement, in the order arm, seed, generation, metric."""
        for arm, seeds in self.graph.ids.items():
            for seed, names in seeds.items():
                for t, name in enumerate(names, 1):
                    if self.status[name] not in ("committed", "diverged"):
                        continue
                    if name not in self.lines:
                        try:
                            self.lines[name] = self._measurements(name)
                        except BadInput:  # damaged, and made again when its turn comes
                            continue
                    for line in self.lines[name]:
                        yield {"arm": arm, "seed": seed, "generation": t, "generation_id": name, **line}

    def _measurements(self, name: str) -> list[dict[str, Any]]:
        return [
            {
                "metric": metric,
                "value": said["value"],
                "unit": self.units.get(metric, ""),
                "split": said["split"],
                "predicted": None,
            }
            for metric, said in sorted(self._metrics(name).items())
        ]

    def _write(self, last: bool) -> None:
        """Records always; the report when it is time to."""
        if not processes.lead():
            return
        self._write_derived()
        faults.point("records/written")
        ended, cost = self.reported
        if last or time.monotonic() - ended > cost / REPORT_SHARE:
            began = time.monotonic()
            report.build(self.workdir)
            self.reported = (time.monotonic(), time.monotonic() - began)

    def _write_derived(self) -> None:
        """records.jsonl and experiment.json."""
        if not processes.lead():
            return
        e, graph, rows = self.experiment, self.graph, Path(self.dataset.path).resolve()
        stored = rows.is_relative_to(self.store)
        first = next(iter(graph.nodes.values()))
        workdirs.write(
            self.workdir,
            self.store,
            {
                "name": e.name,
                "engine": "chain",
                "config": settings_.template(e).to_dict(),
                "arms": {name: settings_.identity(arm) for name, arm in e.arms.items()},
                "seeds": list(e.seeds),
                "generations": e.generations,
                "rows": first.recipe["rows"],
                "tables": {name: w.table().tolist() for name, w in graph.workflows.items()},
                "ids": {
                    arm: {str(s): list(names) for s, names in seeds.items()}
                    for arm, seeds in graph.ids.items()
                },
                "parents": {n.id: sorted(n.parents.values()) for n in graph.nodes.values()},
                "status": self.status,
                "data": {
                    "rows": os.path.relpath(rows, self.workdir.resolve()) if stored else str(rows),
                    "digest": self.dataset.digest,
                    "weights": first.recipe["weights"],
                },
                "units": self.units,
                "versions": provenance.versions(),
                "device": provenance.device(),
                "reference": list(e.reference),
                "real_data": self._real_data(),
            },
            "".join(json.dumps(record) + "\n" for record in self._records()),
        )


def _flat(tree: Any, name: str = "") -> dict[str, Any]:
    if isinstance(tree, dict):
        return {
            k: v for key, below in tree.items() for k, v in _flat(below, f"{name}.{key}".strip(".")).items()
        }
    return {name: tree}
