"""The figures of a report: which there are, their file names, what they show in words."""

import base64
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from collapse_jax.measures.series import Curve, Quantity
from collapse_jax.report import curves, facets, sheets
from collapse_jax.report.graph import lanes, lineage
from collapse_jax.report.load import Experiment
from collapse_jax.report.order import grouped
from collapse_jax.report.style import Look
from collapse_jax.report.words import cut, explained, listed, plural, quantity, visible
from collapse_jax.report.workflow_tables import workflow_table

SHOWN_ARMS = 12  # of which pictures, shares and histograms are drawn
ALL_SHEETS = 16 << 20  # bytes that the sheets of pictures take together
CSS_DPI = 96
Panels = Mapping[Quantity, Mapping[str, Curve]]
Looked = dict[str, dict[str, dict[int, Any]]]


@dataclass(frozen=True)
class Figure:
    """A figure of the page: file name under figures/, what it shows, its caption, its pixels per inch, the
    title that stands above it on the page.
    """

    file: str
    alt: str
    caption: str
    png: bytes
    dpi: int = CSS_DPI
    title: str = ""

    @property
    def uri(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.png).decode()

    @property
    def width(self) -> int:
        """Pixels of the page, from the PNG header."""
        return int.from_bytes(self.png[16:20], "big") * CSS_DPI // self.dpi

    @property
    def height(self) -> int:
        return int.from_bytes(self.png[20:24], "big") * CSS_DPI // self.dpi


@dataclass(frozen=True)
class Figures:
    """Every figure, by the part of the page it stands in. measures: (heading, figures)."""

    heroes: list[Figure]
    tables: list[Figure]
    sheets: list[Figure]
    shares: list[Figure]
    histograms: list[Figure]
    measures: list[tuple[str, list[Figure]]]
    graph: list[Figure]

    def all(self) -> list[Figure]:
        apart = [self.heroes, self.tables, self.sheets, self.shares, self.histograms, self.graph]
        return [f for group in (*apart, *(group for _, group in self.measures)) for f in group]


def draw(e: Experiment, panels: Panels, heads: Sequence[Quantity], looks: Mapping[str, Look]) -> Figures:
    """Every figure of an experiment; `heads` are the quantities it opens with."""
    used: set[str] = set()

    def named(stem: str) -> str:
        stem = re.sub(r"[^A-Za-z0-9]+", "_", stem).strip("_").lower() or "figure"
        stem = cut(stem, 60).replace("…", "_")
        while stem in used:
            stem += "_2"
        used.add(stem)
        return f"{stem}.png"

    def curve(q: Quantity, plot: Callable[..., bytes]) -> Figure:
        image = plot(q, panels[q], looks, _planned(e, panels[q]), e.reference)
        split = f" Split: {q.split}." if sum(p.metric == q.metric for p in panels) > 1 and q.split else ""
        alt = f"{quantity(q.metric, q.unit)} by generation and arm"
        return Figure(named(q.metric), alt, explained(q.metric) + split, image)

    def distribution(kind: str, plot: Callable[..., bytes], title: str, by_arm: Any) -> Figure:
        seeds = max(item.seeds for by_t in by_arm.values() for item in by_t.values())
        caption = f"Mean over {plural(seeds, 'seed')}.{_left_out(e, by_arm)}"
        alt = f"{title} by generation, one plot for each of {listed(list(by_arm))}"
        return Figure(named(f"{kind}_{title}"), alt, caption, plot(by_arm, looks), facets.DPI, title)

    heroes = [curve(q, curves.hero) for q in heads]
    pictures = _by_title(e, "pictures")
    largest = min(sheets.LARGEST, ALL_SHEETS // max(1, len(pictures)))
    return Figures(
        heroes=heroes,
        measures=[
            (heading, [curve(q, curves.panel) for q in members])
            for heading, members in grouped(q for q in panels if q not in heads)
        ],
        tables=[
            Figure(
                named(f"workflow_{name}"),
                f"workflow table of {listed(arms)}",
                listed(arms) if len(arms) > 1 else "",
                image,
            )
            for name, arms, image in _tables(e)
        ],
        sheets=[
            Figure(
                named(title),
                *_told(e, title, by_arm),
                sheets.sheet(by_arm, looks, largest),
                sheets.DPI,
                title,
            )
            for title, by_arm in pictures.items()
        ],
        shares=[
            distribution("shares", facets.share_stack, title, by_arm)
            for title, by_arm in _by_title(e, "shares").items()
        ],
        histograms=[
            distribution("histogram", facets.histograms, title, by_arm)
            for title, by_arm in _by_title(e, "histograms").items()
        ],
        graph=[Figure(named("lineage"), "lineage graph", "", lineage(e, looks))] if lanes(e) else [],
    )


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


def _by_title(e: Experiment, kind: str) -> Looked:
    """Title -> arm -> generation -> what is shown of this kind, for the first arms that show anything."""
    found: Looked = {}
    showing = [arm for arm, shows in e.shows.items() if any(getattr(s, kind) for s in shows.values())]
    for arm in showing[:SHOWN_ARMS]:
        for t, show in e.shows[arm].items():
            for item in getattr(show, kind):
                found.setdefault(item.title, {}).setdefault(arm, {})[t] = item
    return found


def _told(e: Experiment, title: str, by_arm: Mapping[str, Any]) -> tuple[str, str]:
    """(alternative text, caption) of a sheet of pictures."""
    if sheets.single(by_arm):
        return title, "The same for every arm and generation."
    seeds = {next(iter(e.ids.get(arm, {})), "") for arm in by_arm}
    which = f"Seed {seeds.pop()}." if len(seeds) == 1 and "" not in seeds else ""
    alt = f"{title}: pictures by arm from top to bottom and by generation from left to right"
    return alt, f"{which}{_left_out(e, by_arm)}"


def _left_out(e: Experiment, by_arm: Mapping[str, Any]) -> str:
    """A sentence on what is not drawn, empty where all is."""
    more = sum(bool(shows) for shows in e.shows.values()) - len(by_arm)
    return f" {plural(more, 'more arm')} left out." if len(by_arm) == SHOWN_ARMS and more else ""
