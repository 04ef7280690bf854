"""What a report is made of: the files of one or more working directories, as plain data."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from collapse_jax import workdir as workdirs
from collapse_jax.config import BadInput
from collapse_jax.measures.series import Record
from collapse_jax.report.shows import Show, read_shows
from collapse_jax.report.words import visible


@dataclass(frozen=True)
class Experiment:
    """Everything on disk that the report shows.

    tables: arm -> expected rows used, float [generations, generations], entry [t - 1, k] of source k.
    ids: arm -> seed -> generation ids from t = 1; status: id -> committed, missing or diverged.
    shows: arm -> generation -> what people look at.
    values: arm -> metric -> every seed's values, float [seeds, generations], of closed forms that keep them.
    settings: (experiment, resolved config); versions: (experiment, {name: version}); data: (experiment, what is
    known of its real rows, see `data.dataset.summary`).
    """

    name: str
    arms: dict[str, dict[str, Any]] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    generations: int = 0
    engine: str = "chain"
    rows: dict[str, int] = field(default_factory=dict)
    tables: dict[str, np.ndarray] = field(default_factory=dict)
    ids: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    parents: dict[str, list[str]] = field(default_factory=dict)
    status: dict[str, str] = field(default_factory=dict)
    reference: tuple[dict[str, Any], ...] = ()
    settings: tuple[tuple[str, Any], ...] = ()
    versions: tuple[tuple[str, dict[str, str]], ...] = ()
    data: tuple[tuple[str, dict[str, Any]], ...] = ()
    records: tuple[Record, ...] = ()
    shows: dict[str, dict[int, Show]] = field(default_factory=dict)
    values: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)


def read(workdir: Path) -> Experiment:
    """The experiment in a working directory. Raises `BadInput` where it is missing or damaged."""
    path = workdir / workdirs.EXPERIMENT
    raw = workdirs.read(workdir)
    try:
        return _experiment(workdir, raw)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        line = f"{path} is not an experiment ({type(error).__name__}: {error}); run it again"
        raise BadInput(line) from error


def _experiment(workdir: Path, raw: dict[str, Any]) -> Experiment:
    name = str(raw.get("name") or workdir.resolve().name)
    records = read_records(workdirs.records_of(workdir, raw))
    arms = {str(arm): dict(settings or {}) for arm, settings in (raw.get("arms") or {}).items()}
    for record in records:
        arms.setdefault(record["arm"], {})
    ids = {
        arm: {str(seed): list(chain) for seed, chain in chains.items()}
        for arm, chains in (raw.get("ids") or {}).items()
    }
    versions = {k: str(v) for k, v in (raw.get("versions") or {}).items()}
    if raw.get("device"):
        versions["device"] = str(raw["device"])
    measured = {str(r.get("generation_id")): "committed" for r in records}
    store = workdirs.store_of(workdir, raw)
    return Experiment(
        name=name,
        arms=arms,
        seeds=tuple(raw.get("seeds") or ()),
        generations=int(raw.get("generations") or max((r["generation"] for r in records), default=0)),
        engine=str(raw.get("engine") or "chain"),
        rows={arm: int(raw.get("rows") or 0) for arm in arms},
        tables={arm: _table(t) for arm, t in (raw.get("tables") or {}).items() if t},
        ids=ids,
        parents={k: list(v) for k, v in (raw.get("parents") or {}).items()},
        status={k: str(v) for k, v in (raw.get("status") or measured).items()},
        reference=tuple(
            {**r, "label": visible(str(r.get("label") or "published"))} for r in raw.get("reference") or ()
        ),
        settings=((name, raw.get("config") or {}),),
        versions=((name, versions),),
        data=((name, _data(raw["real_data"])),) if raw.get("real_data") else (),
        records=tuple(records),
        shows={arm: read_shows(store, chains, "seal" in raw) for arm, chains in ids.items()},
        values=_seed_values(store, records),
    )


def _seed_values(store: Path, records: Sequence[Record]) -> dict[str, dict[str, np.ndarray]]:
    """`Experiment.values`, mapped from disk, for records that are means over seeds."""
    means = {(r["arm"], str(r.get("generation_id")), r["metric"]) for r in records if r.get("seed") is None}
    out: dict[str, dict[str, np.ndarray]] = {}
    for arm, name, metric in sorted(means):
        path = store / "closed_form" / name / f"{metric}.npy"
        if not name.isalnum() or "/" in metric or not path.is_file():
            continue
        try:
            values_SG = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError):
            continue  # damaged: `verify` says so, and means will do
        if values_SG.dtype == float:
            out.setdefault(arm, {})[metric] = values_SG
    return out


def _data(raw: Mapping[str, Any]) -> dict[str, Any]:
    """(title, words) of what is known of the real rows, and sentences on them."""
    facts = {"source": raw.get("source", "?"), **(raw.get("about") or {}), **(raw.get("splits") or {})}
    sentences = {name: [str(line) for line in raw.get(name) or ()] for name in ("notes", "warnings")}
    return {"facts": [(str(title), str(words)) for title, words in facts.items()], **sentences}


def _table(rows: Sequence[Sequence[float]]) -> np.ndarray:
    """A square array from rows that may be ragged (lower triangle only)."""
    out = np.zeros((len(rows), len(rows)))
    for t, row in enumerate(rows):
        out[t, : min(len(row), len(rows))] = list(row)[: len(rows)]
    return out


def read_records(path: Path) -> list[dict[str, Any]]:
    """The lines of records.jsonl; a last line still being written is left out."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = text.split("\n")
    records = []
    for at, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            record["arm"], record["generation"] = str(record["arm"]), int(record["generation"])
            record["metric"] = str(record["metric"])
        except (ValueError, KeyError, TypeError) as error:
            if at == len(lines):
                break
            message = f"{path} line {at} is not a record; run the experiment again to rewrite it"
            raise BadInput(message) from error
        records.append(record)
    return records


def merge(named: Sequence[tuple[str, Experiment]]) -> Experiment:
    """Several experiments as one; arms carry their experiment's label when two share a name."""
    names = [arm for _, e in named for arm in e.arms]
    clash = len(set(names)) < len(names)
    parts = [renamed(e, f"{label}: {{}}".format if clash else str) for label, e in named]
    reference = {json.dumps(r, sort_keys=True): r for e in parts for r in e.reference}
    labels = [label for label, _ in named]
    settings = [config for e in parts for _, config in e.settings]
    versions = [versions for e in parts for _, versions in e.versions]
    data = [(label, known) for label, e in zip(labels, parts, strict=True) for _, known in e.data]
    return Experiment(
        name=" + ".join(labels),
        generations=max(e.generations for e in parts),
        arms=_union(e.arms for e in parts),
        seeds=tuple(sorted({s for e in parts for s in e.seeds})),
        engine=" + ".join(sorted({e.engine for e in parts})),
        rows=_union(e.rows for e in parts),
        tables=_union(e.tables for e in parts),
        ids=_union(e.ids for e in parts),
        parents=_union(e.parents for e in parts),
        status=_union(e.status for e in parts),
        reference=tuple(reference.values()),
        settings=tuple(zip(labels, settings, strict=True)),
        versions=tuple(zip(labels, versions, strict=True)),
        data=tuple(data),
        records=tuple(r for e in parts for r in e.records),
        shows=_union(e.shows for e in parts),
        values=_union(e.values for e in parts),
    )


def _union(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {key: item for part in parts for key, item in part.items()}


def renamed(e: Experiment, name: Callable[[str], str]) -> Experiment:
    """The experiment with every arm under another name."""
    fields = ("arms", "rows", "tables", "ids", "shows", "values")
    by_arm = {field: {name(arm): v for arm, v in getattr(e, field).items()} for field in fields}
    return replace(
        e,
        **by_arm,
        records=tuple({**r, "arm": name(r["arm"])} for r in e.records),
        reference=tuple({**r, "arm": name(r["arm"])} if r.get("arm") else r for r in e.reference),
    )
