"""The result in words: one row an arm, a sentence for the page, a table for the terminal."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from collapse_jax.measures.evidence import Thresholds
from collapse_jax.measures.series import Curve, Quantity, Record, curves, with_seeds
from collapse_jax.measures.stats import LEVEL, Estimate
from collapse_jax.measures.verdicts import TOO_FEW, UNDECIDED, trend
from collapse_jax.report.load import Experiment
from collapse_jax.report.words import listed, number, plural, plus_minus, spoken, visible

HEADLINE = "test_loss"
SPELT_OUT = 4
LEADING_ORDER = "leading order"


@dataclass(frozen=True)
class Outcome:
    """What happened to one arm between its first and its last generation."""

    arm: str
    seeds: int
    generations: tuple[int, int]
    first: Estimate
    last: Estimate
    change: Estimate
    verdict: str
    diverged: str

    @property
    def scale(self) -> float:
        """What a change is written to the digits of where it has no interval."""
        return 0.01 * max(abs(self.first.mean), abs(self.last.mean))


@dataclass(frozen=True)
class Agreement:
    """How one arm's simulation stands against its prediction; `why` says what keeps `z` from being one."""

    arm: str
    quantity: Quantity
    generation: int
    simulated: Estimate
    predicted: float
    z: float
    worst_z: float
    worst_generation: int
    compared: int
    why: str


def shown(records: Iterable[Record]) -> dict[Quantity, dict[str, Curve]]:
    """`curves` under names that are safe to show: a metric's name comes from a file."""
    return {Quantity(*map(visible, q)): by_arm for q, by_arm in curves(records).items()}


def judged(e: Experiment) -> dict[Quantity, dict[str, Curve]]:
    """`shown` with every seed's values in place of moments, where a closed form has stored them."""
    return {
        q: {arm: with_seeds(c, e.values.get(arm, {}).get(q.metric)) for arm, c in by_arm.items()}
        for q, by_arm in shown(e.records).items()
    }


def outcomes(by_arm: Mapping[str, Curve], unit: str = "", limits: Thresholds | None = None) -> list[Outcome]:
    """One row an arm, its verdict that of `trend`."""
    limits = limits or Thresholds()
    rows = []
    for arm, curve in by_arm.items():
        x = trend(curve, unit, limits)
        rows.append(
            Outcome(
                arm,
                int(curve.n_G.max(initial=0)),
                (int(curve.generations_G[x.first]), int(curve.generations_G[x.last])),
                curve.at(x.first, limits.level),
                curve.at(x.last, limits.level),
                x.change,
                x.word,
                ", ".join(f"seed {s} at generation {t}" for s, t in curve.diverged.items()),
            )
        )
    return rows


def agreements(quantity: Quantity, by_arm: Mapping[str, Curve]) -> list[Agreement]:
    """One row an arm that has a prediction and an interval."""
    rows = []
    for arm, curve in by_arm.items():
        z_G = curve.z_G
        known = np.flatnonzero(np.isfinite(curve.predicted_G) & np.isfinite(curve.mean_G))
        if not len(known):
            continue
        last = int(known[-1])
        tested = np.flatnonzero(np.isfinite(z_G))
        worst = int(tested[np.abs(z_G[tested]).argmax()]) if len(tested) else last
        rows.append(
            Agreement(
                arm,
                quantity,
                int(curve.generations_G[last]),
                curve.at(last),
                float(curve.predicted_G[last]),
                float(z_G[last]),
                float(z_G[worst]),
                int(curve.generations_G[worst]),
                len(tested),
                _why(curve, last),
            )
        )
    return rows


def _why(curve: Curve, column: int) -> str:
    """Why the mean is no normal distance from its law in this generation; empty where it is one."""
    if not curve.exact_G[column]:
        return LEADING_ORDER
    return "" if curve.reliable_G[column] else TOO_FEW


def headlines(panels: Mapping[Quantity, Mapping[str, Curve]]) -> list[Quantity]:
    """The quantities the report opens with: the test loss, once for every unit it comes in."""
    found = [q for q in panels if q.metric == HEADLINE]
    return found or list(panels)[:1]


def sentence(quantity: Quantity, rows: list[Outcome], level: float = LEVEL) -> str:
    """The headline read aloud: `Test loss rises by 0.83 ± 0.05 nats/token under replace and ...`."""
    told = [r for r in rows if np.isfinite(r.change.mean)]
    name = spoken(quantity.metric)
    name = name[:1].upper() + name[1:]
    if not told:
        return "No measurements yet."
    longest = max(r.generations[1] for r in told)
    if all(r.generations[0] == r.generations[1] for r in told):
        starts = listed([f"{plus_minus(r.last.mean, r.last.half)} under {r.arm}" for r in told[:SPELT_OUT]])
        return f"{name} is {starts} in generation {longest} ({quantity.unit or 'no unit'})."
    moved = sorted((r for r in told if r.generations[1] > r.generations[0]), key=lambda r: -r.change.mean)
    unit = f" {quantity.unit}" if quantity.unit and quantity.unit != "1" else ""
    clauses = []
    for at, row in enumerate(moved if len(moved) <= SPELT_OUT else [moved[0], moved[-1]]):
        upto = "" if row.generations[1] == longest else f" (to generation {row.generations[1]})"
        clauses.append(f"{_moves(row, unit if at == 0 else '')} under {row.arm}{upto}")
    text = f"{name} {listed(clauses)}"
    if len(moved) > SPELT_OUT:
        text += f", the largest and the smallest change of {len(moved)} arms"
    text += f", from generation {min(r.generations[0] for r in told)} to {longest}"
    seeds = sorted({r.seeds for r in told})
    shown = f"{seeds[0]:,}" if len(seeds) == 1 else f"{seeds[0]:,} to {seeds[-1]:,}"
    tail = "one seed, so no interval" if seeds[-1] == 1 else f"{shown} seeds, {100 * level:g} % t-intervals"
    gone = [r.arm for r in rows if r.diverged]
    return f"{text} ({tail})." + (f" Diverged: {listed(gone)}." if gone else "")


def _moves(row: Outcome, unit: str) -> str:
    """`rises by 0.83 ± 0.05 nats/token`, `stays flat (+0.02 ± 0.03)`."""
    word, change = row.verdict.removesuffix(" (one seed)"), row.change
    still = {
        "flat": "stays flat",
        UNDECIDED: "changes by an undecided amount",
        TOO_FEW: "has too few seeds for its tail",
        "diverges": "diverges",
    }
    if word in still:
        return f"{still[word]} ({plus_minus(change.mean, change.half, sign=True, scale=row.scale)}{unit})"
    verb = {"up": "goes up", "down": "goes down"}.get(word, word)
    return f"{verb} by {plus_minus(abs(change.mean), change.half, scale=row.scale)}{unit}"


def summary(panels: Mapping[Quantity, Mapping[str, Curve]], limits: Thresholds | None = None) -> str:
    """The plain table printed at the end of a run: arms against first and last test loss, change, verdict."""
    limits = limits or Thresholds()
    if not panels:
        return "no measurements yet"
    blocks = []
    for quantity in headlines(panels):
        rows = outcomes(panels[quantity], quantity.unit, limits)
        z_of = {a.arm: a.why or number(a.z, 0.1, sign=True) for a in agreements(quantity, panels[quantity])}
        head = ["arm", "seeds", "generations", "first", "last", "change", *(["z"] if z_of else []), "verdict"]
        cells = [
            [
                r.arm,
                f"{r.seeds:,}",
                f"{r.generations[0]} - {r.generations[1]}",
                plus_minus(r.first.mean, r.first.half),
                plus_minus(r.last.mean, r.last.half),
                plus_minus(r.change.mean, r.change.half, sign=True, scale=r.scale),
                *([z_of.get(r.arm, "")] if z_of else []),
                r.verdict,
            ]
            for r in rows
        ]
        single = all(r.seeds <= 1 for r in rows)
        note = (
            "one seed: no interval" if single else f"± {100 * limits.level:g} % Student t interval over seeds"
        )
        unit = f" [{quantity.unit}]" if quantity.unit else ""
        lines = [f"{spoken(quantity.metric)}{unit}, {note}", _align([head, *cells])]
        lines += [f"diverged: {r.arm}, {r.diverged}" for r in rows if r.diverged]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _align(rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    left = {0, len(widths) - 1}
    lines = [
        "  ".join(
            c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    rule = "-" * max(map(len, lines))
    return "\n".join([lines[0], rule, *lines[1:]])


def progress(
    ids: Mapping[str, Mapping[str, list[str]]], parents: Mapping[str, list[str]], status: Mapping[str, str]
) -> str:
    """Where a run stands, empty when every generation that can be fitted is committed."""
    unique = {i for chains in ids.values() for chain in chains.values() for i in chain}
    diverged = {i for i in unique if status.get(i) == "diverged"}
    blocked: set[str] = set()
    for chains in ids.values():
        for chain in chains.values():
            for i in chain:
                if diverged.union(blocked).intersection(parents.get(i, ())) and status.get(i) != "committed":
                    blocked.add(i)
    committed = sum(status.get(i) == "committed" for i in unique)
    left = len(unique) - committed - len(diverged) - len(blocked)
    parts = [f"running: {committed:,} of {plural(len(unique), 'generation')} committed"] if left else []
    if diverged:
        parts.append(f"{plural(len(diverged), 'generation')} diverged")
    if blocked:
        parts.append(f"{plural(len(blocked), 'generation')} not fitted: the parents diverged")
    return "; ".join(parts)
