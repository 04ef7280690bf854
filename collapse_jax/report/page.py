"""The page: figures drawn, numbers written, everything put into one HTML file that opens offline."""

import base64
import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from collapse_jax.measures.definitions import judge
from collapse_jax.measures.evidence import Thresholds
from collapse_jax.measures.series import Curve, Quantity
from collapse_jax.report import curves as draw
from collapse_jax.report import profile
from collapse_jax.report.graph import lanes, lineage
from collapse_jax.report.load import Experiment, Show, renamed
from collapse_jax.report.outcomes import Agreement, agreements, headlines, outcomes, progress, sentence, shown
from collapse_jax.report.style import REAL, SYNTHETIC, Look, looks
from collapse_jax.report.words import EXPLAIN, listed, number, plural, plus_minus, quantity, visible
from collapse_jax.report.workflow_tables import workflow_table

if TYPE_CHECKING:
    from jinja2 import Template

DRIFT = "sample_loss_under_first"
Panels = Mapping[Quantity, Mapping[str, Curve]]


@dataclass(frozen=True)
class Picture:
    """A figure of the page: file name under figures/, what it shows, its caption."""

    file: str
    alt: str
    caption: str
    png: bytes

    @property
    def uri(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.png).decode()

    @property
    def width(self) -> int:
        """Pixels, from the PNG header."""
        return int.from_bytes(self.png[16:20], "big")

    @property
    def height(self) -> int:
        return int.from_bytes(self.png[20:24], "big")


def render(e: Experiment) -> tuple[str, dict[str, bytes]]:
    """(the HTML, file name -> PNG)."""
    e = _shown(e)
    panels = shown(e.records)
    look = looks(e.arms)
    heads = headlines(panels)
    limits = Thresholds()
    pictures = _pictures(e, panels, heads, look)
    context = {
        "e": e,
        "look": look,
        "facts": _facts(e),
        "progress": progress(e.ids, e.parents, e.status),
        "sentences": [sentence(q, outcomes(panels[q])).replace(" ± ", "\u00a0±\u00a0") for q in heads],
        "summaries": [(quantity(q.metric, q.unit), outcomes(panels[q])) for q in heads],
        "agreements": _agreements(panels, heads),
        "profile": profile.table(judge(panels, limits, profile.sizes(e)), limits),
        "samples": _samples(e),
        "real": REAL,
        "synthetic": SYNTHETIC,
        "settings": [
            (name, json.dumps(config, indent=2, ensure_ascii=False, sort_keys=True))
            for name, config in e.settings
        ],
        "has_reference": bool(e.reference),
        "lanes_left_out": _lanes_left_out(e),
        **pictures,
    }
    html = _template().render(**context)
    images = {p.file: p.png for group in pictures.values() for p in group}
    return html, images


@cache
def _template() -> "Template":
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "visible": visible,
        "pm": lambda x: plus_minus(x.mean, x.half),
        "change": lambda x, scale: plus_minus(x.mean, x.half, sign=True, scale=scale),
    }
    source = files("collapse_jax.report").joinpath("template.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source)


def _shown(e: Experiment) -> Experiment:
    """The experiment with names that are safe to show: they come from a file that anyone may have written."""
    return e if all(visible(arm) == arm for arm in e.arms) else renamed(e, visible)


def _pictures(
    e: Experiment, panels: Panels, heads: Sequence[Quantity], look: Mapping[str, Look]
) -> dict[str, list[Picture]]:
    used: set[str] = set()

    def picture(stem: str, alt: str, png: bytes, caption: str = "") -> Picture:
        stem = re.sub(r"[^A-Za-z0-9]+", "_", stem).strip("_").lower()[:60] or "figure"
        while stem in used:
            stem += "_2"
        used.add(stem)
        return Picture(f"{stem}.png", alt, caption, png)

    def small(q: Quantity) -> Picture:
        png = draw.panel(q, panels[q], look, _planned(e, panels[q]), e.reference)
        split = f" Split: {q.split}." if sum(p.metric == q.metric for p in panels) > 1 and q.split else ""
        alt = f"{quantity(q.metric, q.unit)} by generation"
        return picture(q.metric, alt, png, EXPLAIN.get(q.metric, "") + split)

    def large(q: Quantity) -> Picture:
        png = draw.hero(q, panels[q], look, _planned(e, panels[q]), e.reference)
        alt = f"{quantity(q.metric, q.unit)} by generation and arm"
        return picture(q.metric, alt, png, EXPLAIN.get(q.metric, ""))

    heroes = [large(q) for q in heads]
    rest = [q for q in panels if q not in heads]
    tables = [
        picture(
            f"workflow_{name}",
            f"workflow table of {listed(arms)}",
            image,
            listed(arms) if len(arms) > 1 else "",
        )
        for name, arms, image in _tables(e)
    ]
    graph = [picture("lineage", "lineage graph", lineage(e, look))] if lanes(e) else []
    return {
        "heroes": heroes,
        "panels": [small(q) for q in rest if q.metric != DRIFT],
        "tables": tables,
        "drift": [small(q) for q in rest if q.metric == DRIFT],
        "graph": graph,
    }


def _planned(e: Experiment, by_arm: Mapping[str, Curve]) -> int:
    """Generations that the longest of these arms will have."""
    planned = [len(e.tables[arm]) if arm in e.tables else e.generations for arm in by_arm]
    return max([*planned, *(int(c.generations_G[-1]) for c in by_arm.values() if len(c.generations_G))])


def _tables(e: Experiment) -> list[tuple[str, list[str], bytes]]:
    """(name, arms, figure) for every different table; arms that share one are shown together."""
    groups: dict[tuple[bytes, int], list[str]] = defaultdict(list)
    for arm, table in e.tables.items():
        groups[table.tobytes(), e.rows.get(arm, 0)].append(arm)
    out = []
    for (_, rows), arms in groups.items():
        name = arms[0] if len(arms) == 1 else visible(str(e.arms[arms[0]].get("workflow", arms[0])))
        out.append((name, arms, workflow_table(name, e.tables[arms[0]], rows)))
    return out


def _facts(e: Experiment) -> list[str]:
    seeds = len(e.seeds) or len({r.get("seed") for r in e.records})
    rows = sorted({r for r in e.rows.values() if r})
    facts = [plural(len(e.arms), "arm"), plural(seeds, "seed"), plural(e.generations, "generation")]
    if rows:
        facts.append(f"n = {' or '.join(f'{r:,}' for r in rows)} real rows")
    return [*facts, e.engine.replace("_", " ")]


def _agreements(panels: Panels, heads: Sequence[Quantity]) -> list[dict[str, Any]]:
    """Rows of the z-score table; |z| above 4 is marked."""
    order = [*heads, *(q for q in panels if q not in heads)]
    return [_agreement(a) for q in order for a in agreements(q, panels[q])]


def _agreement(a: Agreement) -> dict[str, Any]:
    gap = a.simulated.mean - a.predicted
    exact = math.isclose(a.simulated.mean, a.predicted, rel_tol=1e-9, abs_tol=1e-12)
    worst = f"{number(a.worst_z, 0.1, sign=True)} (t = {a.worst_generation})"
    name = quantity(a.quantity.metric, a.quantity.unit)
    return {
        "arm": a.arm,
        "quantity": name,
        "generation": a.generation,
        "mean": number(a.simulated.mean, a.simulated.se),
        "se": number(a.simulated.se, a.simulated.se),
        "predicted": number(a.predicted, a.simulated.se),
        "seeds": f"{a.simulated.n:,}",
        "relative": f"{number(100 * gap / abs(a.predicted), 0.1, sign=True)} %" if a.predicted else "",
        "z": number(a.z, 0.1, sign=True) if np.isfinite(a.z) else "exact" if exact else "n/a",
        "worst": worst if a.compared else "n/a",
        "far": a.compared > 0 and abs(a.worst_z) > 4,
    }


def _lanes_left_out(e: Experiment) -> int:
    return sum(len(chains) for chains in e.ids.values()) - len(lanes(e))


def _samples(e: Experiment) -> list[dict[str, Any]]:
    """Per arm: the generations shown and rows of cells (prompt, continuation)."""
    out = []
    for arm, shows in e.shows.items():
        if not shows:
            continue
        columns = sorted(shows)
        count = max(len(s.lines) for s in shows.values())
        rows = [[_cell(shows[t], at) for t in columns] for at in range(count)]
        out.append({"arm": arm, "columns": columns, "rows": rows, "seed": next(iter(e.ids[arm]))})
    return out


def _cell(show: Show, at: int) -> tuple[str, str]:
    line = show.lines[at] if at < len(show.lines) else ""
    prompt = show.prompts[at] if at < len(show.prompts) else ""
    return (prompt, line[len(prompt) :]) if prompt and line.startswith(prompt) else ("", line)
