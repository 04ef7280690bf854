"""The report: figures, one self-contained HTML page and a CSV, from what a run left on disk.

`build` for one working directory (again after every generation, so that a run can be watched), `build_many`
to compare several, `conclusion` for what the terminal says at the end of a run.
"""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from collapse_jax import files
from collapse_jax.config import BadInput
from collapse_jax.measures.definitions import judge
from collapse_jax.measures.series import Record
from collapse_jax.report import profile
from collapse_jax.report.load import Experiment, merge, read
from collapse_jax.report.outcomes import judged, summary
from collapse_jax.report.page import render

COLUMNS = ("arm", "seed", "generation", "generation_id", "metric", "value", "unit", "split", "predicted")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what spreadsheets take the first letter of a formula to be
PLAIN = {str, int, float, type(None)}

__all__ = ["build", "build_many", "conclusion", "records_csv"]


def build(workdir: Path | str) -> Path:
    """Writes figures/*.png, records.csv and report.html into a working directory; returns the page's path.

    Reads experiment.json, records.jsonl and the show.json of the store's generations. The same input gives
    the same bytes. Raises `BadInput` where the directory holds no readable experiment.
    """
    workdir = Path(workdir)
    return _write(read(workdir), workdir)


def build_many(workdirs: Sequence[Path | str], out: Path | str | None = None) -> Path:
    """One report that compares several experiments, written into `out` (default: FIRST/comparison)."""
    paths = list(dict.fromkeys(Path(w).resolve() for w in workdirs))
    if not paths:
        raise BadInput("no working directory given; name at least one")
    if len(paths) == 1 and out is None:
        return build(paths[0])
    experiments = [read(p) for p in paths]
    labels = [e.name for e in experiments]
    if len(set(labels)) < len(labels):
        labels = [p.name for p in paths]
    if len(set(labels)) < len(labels):
        labels = [str(p) for p in paths]
    whole = merge(list(zip(labels, experiments, strict=True))) if len(paths) > 1 else experiments[0]
    folder = Path(out) if out is not None else files.inside(paths[0], paths[0] / "comparison")
    return _write(whole, folder)


def conclusion(workdir: Path | str) -> str:
    """For the terminal: the table of test losses and the collapse profile of a working directory.

    Raises `BadInput` where it holds no readable experiment.
    """
    e = read(Path(workdir))
    limits, _ = profile.limits(e)
    panels = judged(e)
    told = profile.text(judge(panels, limits, profile.sizes(e)))
    return "\n\n".join(part for part in (summary(panels, limits), told) if part)


def _write(experiment: Experiment, folder: Path) -> Path:
    html, figures = render(experiment)
    files.inside(folder, folder / "figures").mkdir(parents=True, exist_ok=True)
    for name, image in figures.items():  # not flushed to disk, since the next build draws it again
        files.write_bytes(folder / "figures" / name, image, flush=False)
    files.write_text(folder / "records.csv", _encodable(records_csv(experiment.records), "backslashreplace"))
    files.write_text(folder / "report.html", _encodable(html, "xmlcharrefreplace"))
    return folder / "report.html"


def _encodable(text: str, errors: str) -> str:
    """Text whose unpaired surrogates, which JSON can hold and UTF-8 cannot, are spelt out."""
    return text.encode("utf-8", errors).decode("utf-8")


def records_csv(records: Iterable[Record]) -> str:
    """Every field of every record; null is empty, numbers keep all their digits, nested values are JSON.

    Text that a spreadsheet would run as a formula begins with an apostrophe.
    """
    records = list(records)
    extra = sorted({key for r in records for key in r} - set(COLUMNS))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(_cell, (*COLUMNS, *extra)))
    for r in records:
        writer.writerow(_cell(r.get(key)) for key in (*COLUMNS, *extra))
    return out.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    return value if type(value) in PLAIN else json.dumps(value)
