"""Around the curves: limits, whole generations as ticks, logarithmic scales, names at the ends of lines."""

import math
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from collapse_jax.measures.series import Curve
from collapse_jax.report.style import INK, spread, whole_ticks
from collapse_jax.report.words import cut

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DECADES = 1.5
THIN_SEEDS = 12
WRAP, WRAPPED = 32, 8
Curves = Mapping[str, Curve]


class End(NamedTuple):
    """Where a curve ends in data units, and how its name is written beside it."""

    x: float
    y: float
    name: str
    colour: str
    dash: Any


def frame(
    axes: "Axes", by_arm: Curves, generations: int, published: Sequence[np.ndarray], ticks: int = 10
) -> None:
    """Whole generations as ticks; limits from the curves (intervals may be far wider); log if wide."""
    from matplotlib.ticker import MaxNLocator

    drawn = [p[:, 1] for p in published]
    for c in by_arm.values():
        drawn += [c.mean_G, c.predicted_G, *(c.values_SG if len(c.seeds) <= THIN_SEEDS else [])]
    y = np.concatenate([np.empty(0), *drawn])
    y = y[np.isfinite(y)]
    last = max([generations, *(int(p[:, 0].max()) for p in published)], default=1)
    first = min((int(c.generations_G[0]) for c in by_arm.values() if len(c.generations_G)), default=1)
    pad = max(0.25, 0.03 * (last - first))
    axes.set_xlim(first - pad, max(last, first + 1) + pad)
    axes.set_xticks(whole_ticks(first, last, ticks))
    axes.set_xlabel("generation")
    if not len(y):
        return
    low, high = float(y.min()), float(y.max())
    bars = np.concatenate([np.stack([c.mean_G - c.half_G, c.mean_G + c.half_G]) for c in by_arm.values()], 1)
    if low > 0 and high / low > 10**DECADES:
        _log(axes, high / low)
        bars = np.log10(np.where(bars > 0, bars, np.nan))
        axes.set_ylim(*(10**v for v in _limits(math.log10(low), math.log10(high), bars)))
        return
    axes.set_ylim(*_limits(low, high, bars))
    axes.yaxis.set_major_locator(MaxNLocator(6 if ticks < 10 else 8, steps=[1, 2, 5, 10]))


def _log(axes: "Axes", ratio: float) -> None:
    """A logarithmic y axis labelled with plain numbers, between the powers of ten too where there is room."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0) if ratio < 1e3 else (1.0,), numticks=8))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}".replace("-", "−")))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _limits(low: float, high: float, bars: np.ndarray) -> tuple[float, float]:
    """The curves with a margin; intervals may widen that by half the curves' span on each side."""
    span = high - low or abs(high) * 0.1 or 1.0
    bars = bars[np.isfinite(bars)]
    below = min(max(low - bars.min(initial=low), 0.0), 0.5 * span)
    above = min(max(bars.max(initial=high) - high, 0.0), 0.5 * span)
    margin = 0.06 * (span + below + above)
    return low - below - margin, high + above + margin


def wrapped(names: Sequence[str]) -> list[str]:
    """Long names on up to three lines where there are few names, cut where there are many."""
    if len(names) <= WRAPPED:
        return [fill(cut(name, 80), WRAP) for name in names]
    return [cut(name, 44) for name in names]


def label_ends(axes: "Axes", ends: Sequence[End]) -> None:
    """Names at the right edge, moved apart where they would overlap, joined to their curve by a thin line."""
    ends = [e for e in ends if math.isfinite(e.x) and math.isfinite(e.y)]
    if not ends:
        return
    box = axes.get_window_extent()
    height_pt = box.height * 72 / axes.figure.dpi
    to_axes = axes.transData + axes.transAxes.inverted()
    spots = [to_axes.transform((e.x, e.y)) for e in ends]
    names = wrapped([e.name for e in ends])
    lines = max(name.count("\n") + 1 for name in names)
    gap = (11.0 * lines if 11.0 * lines * len(ends) < height_pt else 11.5) / height_pt
    places = spread([float(s[1]) for s in spots], gap, 0.0, max(1.0, gap * len(ends)))
    for end, name, spot, place in zip(ends, names, spots, places, strict=True):
        x0 = float(spot[0]) + 0.012
        if abs(place - spot[1]) > 0.012 or x0 < 0.93:
            axes.plot(
                [x0, 1.0, 1.02],
                [spot[1], spot[1], place] if x0 > 0.93 else [spot[1], place, place],
                transform=axes.transAxes,
                color=end.colour,
                lw=0.8,
                alpha=0.6 if x0 > 0.93 else 0.35,
                clip_on=False,
                zorder=1,
            )
        axes.plot(
            [1.022, 1.042],
            [place, place],
            transform=axes.transAxes,
            color=end.colour,
            lw=3,
            ls=end.dash,
            clip_on=False,
            solid_capstyle="butt",
            dash_capstyle="butt",
        )
        axes.text(
            1.052,
            place,
            name,
            transform=axes.transAxes,
            color=INK,
            fontsize=8.8,
            va="center",
            linespacing=1.05,
            clip_on=False,
        )
