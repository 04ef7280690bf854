"""Results of an arm on disk: moments over seeds with their prediction, every seed's values beside them.

An arm is content-addressed like a generation of the chain: `closed_form/<id>/` holds recipe.json,
results.json and one .npy a metric (float64 [seeds, generations], plain array, read with
allow_pickle=False). The folder is made aside and renamed when it is whole; what has no manifest.json does
not exist.
"""

import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from collapse_jax import files
from collapse_jax.closed_form.engine import Chunk
from collapse_jax.closed_form.family import Family, Prediction
from collapse_jax.closed_form.settings import ClosedForm, Panel
from collapse_jax.config import BadInput, identity
from collapse_jax.console import loud
from collapse_jax.lineage import generation_id
from collapse_jax.workflows import Arm, Workflow

RECIPE_VERSION = 3  # raise it when results would change
FEWEST_SEEDS = 20  # with fewer the mean's distance in standard errors is far from normal


class Moments:
    """Mean and standard error over seeds of {metric: [rows, generations]} that arrive in chunks."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: dict[str, np.ndarray] = {}
        self.squares: dict[str, np.ndarray] = {}

    def add(self, values: Mapping[str, np.ndarray]) -> None:
        """Merge a chunk (Chan, Golub & LeVeque 1983)."""
        rows = len(next(iter(values.values())))
        total = self.count + rows
        for name, v in values.items():
            with np.errstate(invalid="ignore", over="ignore"):
                mean = v.mean(0)
                squares = ((v - mean) ** 2).sum(0)
                if self.count:
                    apart = mean - self.mean[name]
                    squares = self.squares[name] + squares + apart**2 * (self.count * rows / total)
                    mean = self.mean[name] + apart * (rows / total)
            self.mean[name], self.squares[name] = mean, squares
        self.count = total

    def se(self, name: str) -> np.ndarray:
        """Standard error of the mean, [generations]; nan for a single seed."""
        if self.count < 2:
            return np.full_like(self.squares[name], np.nan)
        return np.sqrt(self.squares[name] / (self.count - 1) / self.count)


def recipe(experiment: ClosedForm, panel: Panel, arm: Arm) -> dict[str, Any]:
    """Everything that determines an arm's numbers."""
    kept = panel.metrics or panel.settings.metrics(panel.workflow(arm))
    return {
        "version": RECIPE_VERSION,
        "engine": "closed_form",
        "seed": experiment.seed,
        "panel": identity(panel) | {"arms": None, "metrics": list(kept)},
        "arm": identity(arm),
    }


def folder(store: Path, what: dict[str, Any]) -> Path:
    """Where an arm with this recipe lives."""
    return store / "closed_form" / generation_id(what)


def committed(path: Path, with_seeds: bool) -> bool:
    """Whether the folder is whole; a damaged one is set aside."""
    if not (path / "manifest.json").is_file():
        return False
    bad = damaged(path)
    if bad:
        aside = files.set_aside(path, "damaged")
        loud(f"{bad[0]}; set aside as {aside.name}, to be made again")
        return False
    return not with_seeds or any(path.glob("*.npy"))


def damaged(path: Path) -> list[str]:
    """Files of a committed arm that are missing or differ from its manifest."""
    try:
        said = files.read_json(path / "manifest.json")["files"]
        return [
            f"{path / name} is damaged or missing"
            for name, entry in said.items()
            if "/" in name or not files.matches(path / name, entry)
        ]
    except (BadInput, KeyError, TypeError, AttributeError) as error:
        return [f"{path / 'manifest.json'} is damaged ({error})"]


def verify(store: Path) -> list[str]:
    """Re-hash every committed arm of a store: one line for each thing that is wrong."""
    problems = []
    for path in sorted((store / "closed_form").glob("*")):
        if "." in path.name or not (path / "manifest.json").is_file():
            continue
        problems += damaged(path)
    return problems


def write(
    path: Path,
    what: dict[str, Any],
    family: Family,
    workflow: Workflow,
    chunks: Iterable[Chunk],
    seeds: int,
    keep_seeds: bool,
) -> None:
    """Take an arm's chunks to disk and commit it; memory holds one chunk at a time."""
    aside = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    if path.exists():
        shutil.rmtree(path)  # without the values that are now wanted, or without a manifest
    aside.mkdir(parents=True)
    over_time, at_end, values = Moments(), Moments(), {}
    for chunk in chunks:
        over_time.add(chunk.values)
        at_end_values = family.outcome(chunk.values)
        if at_end_values:
            at_end.add({name: v[:, None] for name, v in at_end_values.items()})
        if keep_seeds:
            for name, v in chunk.values.items():
                if name not in values:
                    values[name] = np.lib.format.open_memmap(
                        aside / f"{name}.npy", "w+", float, (seeds, v.shape[1])
                    )
                values[name][chunk.first : chunk.first + len(v)] = v
    for array in values.values():
        array.flush()
    files.write_json(aside / "recipe.json", what)
    files.write_json(aside / "results.json", _results(family, workflow, over_time, at_end))
    names = sorted(p.name for p in aside.iterdir())
    files.write_json(
        aside / "manifest.json", {"id": path.name, "files": {n: files.entry(aside / n) for n in names}}
    )
    aside.rename(path)


def _results(family: Family, workflow: Workflow, over_time: Moments, at_end: Moments) -> dict[str, Any]:
    laws = family.predict(workflow)
    last = workflow.generations
    out = {}
    for moments, units, first in ((over_time, family.units, 1), (at_end, family.at_end, last)):
        for name, mean in moments.mean.items():
            law = laws.get(name, Prediction(np.full(last, np.nan), ""))
            out[name] = {
                "unit": units[name],
                "first": first,
                "seeds": moments.count,
                "mean": mean.tolist(),
                "se": moments.se(name).tolist(),
                "predicted": law.values[first - 1 :].tolist(),
                "law": law.law,
                "exact": law.exact,
                "signed": name in family.signed,
            }
    return {"metrics": out}


def records(name: str, path: Path) -> Iterator[dict[str, Any]]:
    """Lines of records.jsonl for one arm: a mean over seeds a line, in the order metric, generation.

    value: mean over `seeds` chains; se: its standard error; predicted: expectation by `law`, which is
    `exact` or holds to leading order; null where a number is not finite or no law is known. reliable:
    whether `se` may be trusted for a z-score; not with few chains, nor where few of them carry the mean of a
    heavy-tailed value.
    """
    for metric, r in sorted(files.read_json(path / "results.json")["metrics"].items()):
        for i, (mean, se, predicted) in enumerate(zip(r["mean"], r["se"], r["predicted"], strict=True)):
            line = {
                "arm": name,
                "seed": None,
                "generation": r["first"] + i,
                "generation_id": path.name,
                "metric": metric,
                "value": mean,
                "unit": r["unit"],
                "split": "population",
                "predicted": predicted,
                "se": se,
                "seeds": r["seeds"],
            }
            if predicted is not None:
                steady = bool(se) and mean is not None and (r["signed"] or se <= 0.1 * abs(mean))
                line |= {"exact": r["exact"], "reliable": steady and r["seeds"] >= FEWEST_SEEDS}
            yield line


def seeds(path: Path, metric: str) -> np.ndarray:
    """Every seed's values of a metric of a committed arm, float64 [seeds, generations]. Raises `BadInput`."""
    file = path / f"{metric}.npy"
    if not file.is_file():
        raise BadInput(f"{file} is missing; run with config.keep_seeds=True and metric {metric!r}")
    return np.load(file, mmap_mode="r", allow_pickle=False)
