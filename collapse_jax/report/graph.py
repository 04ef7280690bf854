"""The lineage drawn: generations by column, one lane per arm and seed, shared generations once."""

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from collapse_jax.report.load import Experiment
from collapse_jax.report.style import INK, QUIET, REAL, RULE, Look, png, text_width, whole_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LANES = 24
ALL_EDGES = 12
SHARED = "#475467"
Lane = tuple[str, str]
Places = Mapping[str, tuple[float, float]]
Users = Mapping[str, list[Lane]]


def lanes(e: Experiment) -> list[Lane]:
    """(arm, seed) from top to bottom, seeds outside so that the shared first generation is in their middle.

    Only the first seeds are kept where all would not be readable.
    """
    seeds = list(dict.fromkeys(s for chains in e.ids.values() for s in chains))
    kept = seeds[: max(1, MOST_LANES // max(1, len(e.ids)))]
    return [(arm, s) for s in kept for arm, chains in e.ids.items() if s in chains]


def lineage(e: Experiment, looks: Mapping[str, Look]) -> bytes:
    """The graph of generations; edges come from the parents, from the latest alone in a long lineage."""
    order = lanes(e)
    chains = {lane: e.ids[lane[0]][lane[1]] for lane in order}
    count = max(len(chain) for chain in chains.values())
    many = len({s for _, s in order}) > 1
    names = [f"{arm} · seed {seed}" if many else arm for arm, seed in order]
    step = min(0.46, 9.0 / len(order)) if len(order) > 6 else 0.46
    left, right, column = text_width(names, 8.6) + 0.3, 0.25, float(np.clip(8.2 / count, 0.16, 1.15))
    width, height = max(5.2, left + right + column * count), step * (len(order) + 0.4) + 0.62

    def draw(figure: "Figure") -> None:
        axes = figure.add_axes((left / width, 0.12 / height, 1 - (left + right) / width, 1 - 0.66 / height))
        axes.set_xlim(0.5, count + 0.5)
        axes.set_ylim(len(order) - 0.4, -0.7)
        _furniture(axes, order, names, count)
        place, users = _places(order, chains)
        radius = min(4.6, 15 * min(column, step))
        _edges(axes, e, place, users, looks, everything=count <= ALL_EDGES)
        _nodes(axes, e, place, users, looks, radius)

    return png(draw, width, height, dpi=140)


def _places(order: list[Lane], chains: Mapping[Lane, list[str]]) -> tuple[Places, Users]:
    """Id -> (generation, mean lane) and id -> the lanes that use it."""
    users: dict[str, list[Lane]] = defaultdict(list)
    column: dict[str, int] = {}
    for lane in order:
        for t, i in enumerate(chains[lane], 1):
            users[i].append(lane)
            column[i] = t
    height = {lane: y for y, lane in enumerate(order)}
    place = {i: (column[i], float(np.mean([height[lane] for lane in us]))) for i, us in users.items()}
    return place, dict(users)


def _furniture(axes: "Axes", order: list[Lane], names: list[str], count: int) -> None:
    axes.hlines(range(len(order)), 0.5, count + 0.5, color=RULE, lw=0.6, zorder=0)
    for y in range(1, len(order)):
        if order[y][1] != order[y - 1][1]:
            axes.axhline(y - 0.5, color="#cbd2dc", lw=0.9, ls=(0, (2, 3)), zorder=0, xmin=-0.2, clip_on=False)
    axes.set_yticks(range(len(order)), names, fontsize=8.6)
    axes.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_xticks(whole_ticks(1, count, 12))
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("generation", color=QUIET, fontsize=9, labelpad=6)
    axes.grid(False)
    for side in axes.spines.values():
        side.set_visible(False)


def _edges(
    axes: "Axes", e: Experiment, place: Places, users: Users, looks: Mapping[str, Look], everything: bool
) -> None:
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgba

    paths, colours, widths = [], [], []
    for child, (t, y) in place.items():
        there = [p for p in e.parents.get(child, ()) if p in place]
        latest = max((place[p][0] for p in there), default=0)
        for parent in there:
            t0, y0 = place[parent]
            if t0 < latest and not everything:
                continue
            paths.append(_curve(t0, y0, t, y))
            colour = looks[users[child][0][0]].colour if len(users[child]) == 1 else SHARED
            colours.append(to_rgba(colour, 0.9 if t0 == latest else 0.38))
            widths.append(1.3 if t0 == latest else 0.8)
    axes.add_collection(LineCollection(paths, colors=colours, linewidths=widths, zorder=2), autolim=False)


def _curve(t0: float, y0: float, t1: float, y1: float) -> np.ndarray:
    """Points [N, 2] of an edge: straight to a neighbour, an arc over nodes between, an S between lanes."""
    s = np.linspace(0, 1, 24)
    ease = np.clip(s * (t1 - t0), 0, 1)
    smooth = ease * ease * (3 - 2 * ease)
    lift = 0.0 if t1 - t0 <= 1 else min(0.44, 0.12 + 0.07 * (t1 - t0))
    return np.column_stack([t0 + s * (t1 - t0), y0 + smooth * (y1 - y0) - lift * 4 * s * (1 - s)])


def _nodes(
    axes: "Axes", e: Experiment, place: Places, users: Users, looks: Mapping[str, Look], radius: float
) -> None:
    groups: dict[tuple[str, str, bool], list[str]] = defaultdict(list)
    for i, us in users.items():
        colour = looks[us[0][0]].colour if len(us) == 1 else SHARED
        groups[colour, e.status.get(i, "committed"), _uses_real(e, us[0][0], int(place[i][0]))].append(i)
    for (colour, state, real), members in groups.items():
        xy = np.array([place[i] for i in members])
        if real:
            axes.plot(
                *xy.T,
                ls="none",
                marker="o",
                ms=radius * 2.4 + 2.2,
                mfc="white",
                mec=REAL,
                mew=0.3 * radius,
                zorder=3,
            )
        axes.plot(
            *xy.T,
            ls="none",
            marker="o",
            ms=radius * 2,
            mec=colour,
            mew=1.1,
            zorder=4,
            mfc=colour if state == "committed" else "white",
        )
        if state == "diverged":
            axes.plot(*xy.T, ls="none", marker="x", ms=radius * 1.5, mec=colour, mew=1.8, zorder=5)
    for i, us in users.items():
        if len(us) > 1 and radius > 3 and e.status.get(i, "committed") == "committed":
            axes.text(
                *place[i],
                str(len(us)),
                color="white",
                fontsize=min(7, 1.7 * radius),
                ha="center",
                va="center_baseline",
                zorder=6,
                fontweight="bold",
            )


def _uses_real(e: Experiment, arm: str, t: int) -> bool:
    table = e.tables.get(arm)
    return table is not None and t <= len(table) and table[t - 1, 0] > 0
