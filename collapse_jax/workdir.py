"""A working directory: who may write in it, and what it says of its experiment in experiment.json and records.jsonl.

Both are derived from the committed generations. experiment.json is sealed, vouches for records.jsonl and says where
the store and the real rows are, so that reports and samples need nothing else.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from collapse_jax import files, lock
from collapse_jax.config import BadInput
from collapse_jax.console import loud

EXPERIMENT, RECORDS = "experiment.json", "records.jsonl"
DERIVED = (EXPERIMENT, RECORDS, "records.csv", "report.html", "figures", "timings.jsonl", "logs", "lock")
STORED = ("generations", "closed_form", "data", "features", "lock")


@contextlib.contextmanager
def owned(workdir: Path, store: Path) -> Iterator[None]:
    """Make both folders and own them for the duration. Raises `BadInput` where another does, or links lie in them."""
    with contextlib.ExitStack() as stack:
        for folder in dict.fromkeys((workdir.resolve(), store.resolve())):
            files.make_folder(folder)
            for name in (*DERIVED, *STORED):
                files.inside(folder, folder / name)
            stack.enter_context(lock.owned(folder))
        yield


def write(workdir: Path, store: Path, experiment: dict[str, Any], records: str) -> None:
    """Write records.jsonl, then experiment.json, which vouches for it."""
    files.write_text(workdir / RECORDS, records)
    # Both may be moved together, and the working directory may be reached through a link.
    inside = store.resolve() == workdir.resolve()
    said = {
        **experiment,
        "store": "." if inside else os.path.relpath(store.resolve(), workdir.resolve()),
        "records": files.entry(workdir / RECORDS),
    }
    files.write_json(workdir / EXPERIMENT, files.sealed(said))


def read(workdir: Path) -> dict[str, Any]:
    """What experiment.json says. Raises `BadInput` where it is missing, damaged or was edited."""
    path = workdir / EXPERIMENT
    if not path.exists():
        raise BadInput(f"{workdir} holds no {EXPERIMENT}; give the --workdir of a run")
    said = files.read_json(path)
    if isinstance(said, dict) and "seal" not in said:
        loud(f"{path} has no seal, so nothing vouches for it; run the experiment again to write it anew")
        return said
    return files.unsealed(path)


def records_of(workdir: Path, said: dict[str, Any]) -> Path:
    """The path of records.jsonl. Raises `BadInput` where it is not what experiment.json says."""
    path = workdir / RECORDS
    if "records" in said and not files.matches(path, said["records"]):
        raise BadInput(
            f"{path} is not what {EXPERIMENT} vouches for; run the experiment again to write it anew"
        )
    return path


def store_of(workdir: Path, said: dict[str, Any] | None = None) -> Path:
    """The store that a working directory's experiment lives in. Raises `BadInput` where there is none."""
    place = (read(workdir) if said is None else said).get("store") or "."
    if not isinstance(place, str):
        raise BadInput(f"{workdir / EXPERIMENT} is damaged: its store is no path; run the experiment again")
    return (workdir / place).resolve()
