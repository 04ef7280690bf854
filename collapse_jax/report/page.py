"""The page: figures drawn, numbers written, everything put into one HTML file that opens offline."""

import json
import math
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from collapse_jax.measures.definitions import judge
from collapse_jax.measures.evidence import Thresholds
from collapse_jax.measures.series import Quantity
from collapse_jax.report import figures, profile
from collapse_jax.report.graph import lanes
from collapse_jax.report.load import Experiment, renamed
from collapse_jax.report.order import grouped
from collapse_jax.report.outcomes import (
    Agreement,
    Outcome,
    agreements,
    headlines,
    judged,
    outcomes,
    progress,
    sentence,
    shown,
)
from collapse_jax.report.shows import Show
from collapse_jax.report.style import REAL, SYNTHETIC, looks
from collapse_jax.report.words import number, plural, plus_minus, quantity, visible

if TYPE_CHECKING:
    from jinja2 import Template


def render(e: Experiment) -> tuple[str, dict[str, bytes]]:
    """(the HTML, file name -> PNG)."""
    e = _shown(e)
    panels, measured = shown(e.records), judged(e)
    look = looks(e.arms)
    heads = headlines(panels)
    limits, clash = profile.limits(e)
    drawn = figures.draw(e, panels, heads, look)
    summaries = {q: outcomes(measured[q], q.unit, limits) for q in heads}
    context = {
        "e": e,
        "look": look,
        "facts": _facts(e),
        "progress": progress(e.ids, e.parents, e.status),
        "sentences": [
            sentence(q, rows, limits.level).replace(" ± ", "\u00a0±\u00a0") for q, rows in summaries.items()
        ],
        "summaries": [(quantity(q.metric, q.unit), rows) for q, rows in summaries.items()],
        "agreements": _agreements(measured, heads),
        "profile": profile.table(judge(measured, limits, profile.sizes(e)), limits),
        "limits": limits,
        "clash": clash,
        "samples": _samples(e),
        "real": REAL,
        "synthetic": SYNTHETIC,
        "settings": [
            (name, json.dumps(config, indent=2, ensure_ascii=False, sort_keys=True))
            for name, config in e.settings
        ],
        "has_reference": bool(e.reference),
        "lanes_left_out": _lanes_left_out(e),
        "figures": drawn,
        "digest": _digest(measured, heads, list(look), limits),
    }
    return _template().render(**context), {f.file: f.png for f in drawn.all()}


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


def _facts(e: Experiment) -> list[str]:
    seeds = len(e.seeds) or len({r.get("seed") for r in e.records})
    rows = sorted({r for r in e.rows.values() if r})
    facts = [plural(len(e.arms), "arm"), plural(seeds, "seed"), plural(e.generations, "generation")]
    if rows:
        facts.append(f"n = {' or '.join(f'{r:,}' for r in rows)} real rows")
    return [*facts, e.engine.replace("_", " ")]


def _digest(
    panels: figures.Panels, heads: Sequence[Quantity], arms: Sequence[str], limits: Thresholds
) -> list[tuple[str, list[Outcome | None]]]:
    """(quantity, what came of it in each arm, None where it was not measured), the headline first."""
    order = [*heads, *(q for _, members in grouped(q for q in panels if q not in heads) for q in members)]
    found = [(quantity(q.metric, q.unit), outcomes(panels[q], q.unit, limits)) for q in order]
    by_arm = [(name, {r.arm: r for r in rows}) for name, rows in found]
    return [(name, [rows.get(arm) for arm in arms]) for name, rows in by_arm]


def _agreements(panels: figures.Panels, heads: Sequence[Quantity]) -> list[dict[str, Any]]:
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
        "z": a.why or (number(a.z, 0.1, sign=True) if np.isfinite(a.z) else "exact" if exact else "n/a"),
        "worst": worst if a.compared else "",
        "far": a.compared > 0 and abs(a.worst_z) > 4,
    }


def _lanes_left_out(e: Experiment) -> int:
    return sum(len(chains) for chains in e.ids.values()) - len(lanes(e))


def _samples(e: Experiment) -> list[dict[str, Any]]:
    """Per arm: the generations shown and rows of cells (prompt, continuation)."""
    out = []
    for arm, shows in e.shows.items():
        columns = sorted(t for t, show in shows.items() if show.lines)
        count = max((len(s.lines) for s in shows.values()), default=0)
        rows = [[_cell(shows[t], at) for t in columns] for at in range(count)]
        if not rows:
            continue
        out.append({"arm": arm, "columns": columns, "rows": rows, "seed": next(iter(e.ids[arm]))})
    return out


def _cell(show: Show, at: int) -> tuple[str, str]:
    line = show.lines[at] if at < len(show.lines) else ""
    prompt = show.prompts[at] if at < len(show.prompts) else ""
    return (prompt, line[len(prompt) :]) if prompt and line.startswith(prompt) else ("", line)
