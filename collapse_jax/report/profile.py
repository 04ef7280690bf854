"""The collapse profile as a table: arms x the eight definitions, for the page and for the terminal."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from collapse_jax.config import resolve
from collapse_jax.measures.definitions import Finding, Profile
from collapse_jax.measures.evidence import NAMES, Thresholds
from collapse_jax.measures.verdicts import NO, NOT_APPLICABLE, UNDECIDED, YES
from collapse_jax.report.load import Experiment
from collapse_jax.report.words import listed, number, plus_minus, spoken, visible

# A square says the verdict without colour: full, empty, half, none.
MARKS = {YES: "■", NO: "□", UNDECIDED: "◪", NOT_APPLICABLE: "–"}
CLASSES = {YES: "yes", NO: "no", UNDECIDED: "open", NOT_APPLICABLE: "none"}
SHORT = (
    "Catastrophic increase",
    "Any increase",
    "Diverging",
    "Scaling law",
    "Variance",
    "Modes",
    "Tails",
    "Hallucination",
)
# Schaeffer et al. 2025, the figure of which definitions are used: e explicit, i implicit.
CLAIMS = (
    ("Shumailov et al. 2023", "3i 5e 6e 7e 8i"),
    ("Gerstgrasser et al. 2024", "3e"),
    ("Seddik et al. 2024", "5e 7e"),
    ("Zhu et al. 2024", "7e"),
    ("Shumailov et al. 2024", "7e"),
    ("Kazdan et al. 2025", "1e 3e"),
)
NOT_COMPARED = {"rows", "max_rows", "name", "reference", "thresholds"}


@dataclass(frozen=True)
class Cell:
    """One finding as it is shown."""

    style: str
    mark: str
    verdict: str
    estimate: str
    metric: str


def cell(f: Finding) -> Cell:
    verdict = "" if f.verdict == NOT_APPLICABLE else f.verdict
    told = f"{f.change} {estimate(f)}".strip()
    return Cell(CLASSES[f.verdict], MARKS[f.verdict], verdict, told, spoken(visible(f.metric)))


def estimate(f: Finding) -> str:
    """`3.83 ± 0.11`; `1.34 (1.20 to 10.2)` where the ends are not equally far; empty without an estimate."""
    x = f.interval
    if math.isnan(x.value):
        return ""
    if not math.isfinite(x.low):
        return number(x.value)
    half = (x.high - x.low) / 2
    if abs((x.low + x.high) / 2 - x.value) <= 0.05 * half or half == 0:
        return plus_minus(x.value, half)
    near = min(x.value - x.low, x.high - x.value)
    return f"{number(x.value, near)} ({number(x.low, near)} to {number(x.high, near)})"


def criteria(limits: Thresholds) -> list[str]:
    """What each definition asks of the estimate, in the order of the definitions."""

    def limit(x: float) -> str:
        return f"{x:g}"

    return [
        f"risk ratio > {limit(limits.catastrophic)}",
        f"rise > 0; none: within {100 * limits.margin:g} %",
        f"rise keeps its pace; none: within {100 * limits.margin:g} %",
        f"exponent moves > {limit(limits.exponent)}",
        f"left < {limit(limits.variance)}",
        f"left < {limit(limits.modes)} or drop > {limit(limits.mass)}",
        f"left < {limit(limits.tails)} or rise > {limit(limits.mass)}",
        f"likelihood ratio > {limit(limits.hallucination)} or drop > {limit(limits.mass)}",
    ]


def limits(e: Experiment) -> tuple[Thresholds, bool]:
    """(the thresholds that the settings name, whether several experiments name different ones).

    Where they differ the defaults are used. Raises `BadInput` where one cannot be used.
    """
    given = [
        resolve(Thresholds, config.get("thresholds") or {}, "config.thresholds")
        for _, config in e.settings
        if isinstance(config, Mapping) and isinstance(config.get("thresholds") or {}, Mapping)
    ]
    clash = len(set(given)) > 1
    return (Thresholds() if clash or not given else given[0]), clash


def claims() -> str:
    """Which published claim used which definition, in one line."""
    word = {"e": "explicit", "i": "implicit"}
    told = []
    for who, uses in CLAIMS:
        groups: dict[str, list[str]] = {}
        for use in uses.split():
            groups.setdefault(word[use[1]], []).append(use[0])
        told.append(f"{who}: " + ", ".join(f"{listed(ks)} {how}" for how, ks in groups.items()))
    return "; ".join(told)


def sizes(e: Experiment) -> dict[str, tuple[str, float]]:
    """Arm -> (series, real rows).

    Arms of one name are a series where their experiments, or the panels of one, agree in every resolved setting
    but the number of rows.
    """
    out = {}
    for label, config in e.settings:
        for prefix, part in _parts(config):
            same = json.dumps(_without(part, NOT_COMPARED), sort_keys=True)
            for name in part.get("arms") or {}:
                arm = next((a for a in (f"{label}: {prefix}{name}", f"{prefix}{name}") if a in e.arms), "")
                rows = e.rows.get(arm) or part.get("rows") or 0
                if arm and rows:
                    out[arm] = (f"{name} {same}", float(rows))
    return out


def _parts(config: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """(what the names of its arms begin with, settings) of an experiment, or of each of its panels."""
    if not isinstance(config, Mapping):
        return []
    panels = config.get("panels") or {}
    return [(f"{p}/" if len(panels) > 1 else "", part) for p, part in panels.items()] or [("", config)]


def _without(config: Any, keys: set[str]) -> Any:
    if not isinstance(config, Mapping):
        return config
    return {k: _without(v, keys) for k, v in config.items() if k not in keys}


def table(profile: Profile, limits: Thresholds) -> dict[str, Any]:
    """Everything the page shows of it; empty where nothing was measured."""
    if not profile:
        return {}
    shown = [k for k in range(8) if any(row[k].verdict != NOT_APPLICABLE for row in profile.values())]
    return {
        "heads": [(k + 1, SHORT[k], criteria(limits)[k]) for k in range(8)],
        "rows": [(arm, [cell(f) for f in findings]) for arm, findings in profile.items()],
        "hows": [
            (k + 1, NAMES[k], [_how(arm, f[k]) for arm, f in profile.items() if f[k].metric]) for k in shown
        ],
        "silent": [(k + 1, NAMES[k], _need(profile, k)) for k in range(8) if k not in shown],
        "claims": claims(),
        "legend": [(CLASSES[v], MARKS[v], v) for v in MARKS],
        "limits": limits,
    }


def _how(arm: str, f: Finding) -> tuple[str, str, str]:
    return arm, f.verdict, visible(f.how)


def _need(profile: Profile, k: int) -> str:
    return visible(next(iter(profile.values()))[k].how)


def text(profile: Profile) -> str:
    """The profile for the terminal: a line an arm, its eight verdicts."""
    words = {YES: "yes", NO: "no", UNDECIDED: "?", NOT_APPLICABLE: "-"}
    if not profile:
        return ""
    width = max(len(visible(arm)) for arm in profile)
    head = " " * width + "  " + "  ".join(f"{k}".rjust(3) for k in range(1, 9))
    lines = [
        visible(arm).ljust(width) + "  " + "  ".join(words[f.verdict].rjust(3) for f in findings)
        for arm, findings in profile.items()
    ]
    named = [f"{k} {name.lower()}" for k, name in enumerate(SHORT, 1)]
    note = "definitions of collapse (arXiv 2503.03150); ? undecided, - not measured"
    return "\n".join([note, head, *lines, ", ".join(named[:4]) + ",", ", ".join(named[4:])])
