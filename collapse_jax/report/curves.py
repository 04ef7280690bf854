"""Curves by generation: the mean with its interval, every seed, predictions as lines, published points."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from collapse_jax.measures.series import Curve, Quantity, value
from collapse_jax.report.axes import THIN_SEEDS, Curves, End, frame, label_ends, wrapped
from collapse_jax.report.style import INK, QUIET, Look, png, text_width
from collapse_jax.report.words import quantity as axis_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BARS = 15
LABELLED = 22


def hero(
    quantity: Quantity,
    by_arm: Curves,
    looks: Mapping[str, Look],
    generations: int,
    reference: Sequence[Mapping[str, Any]] = (),
) -> bytes:
    """The headline figure, arms named at the ends of their curves; z-scores below where a law is known."""
    published = _published(quantity, by_arm, reference)
    tested = any(np.isfinite(c.z_G).any() for c in by_arm.values())
    names = list(by_arm) if len(by_arm) <= LABELLED else []
    labels = wrapped([*names, *(r["label"] for r, _ in published)])
    right = max(text_width((line for x in labels for line in x.split("\n")), 8.8), 0.2) + 0.42
    width, height = 6.1 + right, 4.1 + 1.35 * tested + 0.16 * max(0, len(names) - 14)

    def draw(figure: "Figure") -> None:
        grid = figure.add_gridspec(
            2 if tested else 1,
            1,
            height_ratios=[3.2, 1] if tested else [1],
            hspace=0.12,
            left=0.78 / width,
            right=1 - right / width,
            top=1 - 0.16 / height,
            bottom=0.52 / height,
        )
        axes = figure.add_subplot(grid[0])
        ends = _draw(axes, by_arm, looks, generations)
        ends += [_draw_published(axes, r, points, looks) for r, points in published]
        frame(axes, by_arm, generations, [points for _, points in published])
        axes.set_ylabel(axis_words(quantity.metric, quantity.unit))
        if names or published:
            label_ends(axes, ends if names else ends[len(by_arm) :])
        if tested:
            axes.tick_params(labelbottom=False)
            axes.set_xlabel("")
            _draw_z(figure.add_subplot(grid[1], sharex=axes), by_arm, looks)
            figure.align_ylabels()

    return png(draw, width, height)


def panel(
    quantity: Quantity,
    by_arm: Curves,
    looks: Mapping[str, Look],
    generations: int,
    reference: Sequence[Mapping[str, Any]] = (),
) -> bytes:
    """A small figure of one quantity; a legend that fits stands in it, a longer one is left to the page."""
    letters = sum(len(a) + 5 for a in by_arm)
    legend = letters <= 58
    published = _published(quantity, by_arm, reference)
    width, height = 3.9, 2.75

    def draw(figure: "Figure") -> None:
        tall = 1 - (0.78 + 0.24 * legend) / height
        axes = figure.add_axes((0.66 / width, 0.5 / height, 1 - 0.8 / width, tall))
        _draw(axes, by_arm, looks, generations, small=True)
        for r, points in published:
            _draw_published(axes, r, points, looks)
        frame(axes, by_arm, generations, [points for _, points in published], ticks=6)
        axes.set_title(axis_words(quantity.metric, quantity.unit), pad=8 + 15 * legend, x=-0.1)
        if legend:
            handles = [_handle(looks[a]) for a in by_arm]
            axes.legend(
                handles,
                list(by_arm),
                loc="lower left",
                bbox_to_anchor=(-0.12, 0.99),
                ncols=len(by_arm),
                fontsize=min(9.0, 7.8 * 58 / letters),
                handlelength=1.2,
                handletextpad=0.5,
                columnspacing=1.1,
                borderpad=0.2,
            )

    return png(draw, width, height)


def _handle(look: Look) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=look.colour, marker=look.marker, ls=look.dash, lw=1.6, ms=4)


def _published(
    quantity: Quantity, by_arm: Curves, reference: Sequence[Mapping[str, Any]]
) -> list[tuple[Mapping[str, Any], np.ndarray]]:
    """References to this quantity with their points; those that name an arm belong where it is drawn."""
    return [
        (r, points)
        for r in reference
        if r.get("metric", "test_loss") == quantity.metric
        and r.get("arm") in (*by_arm, None)
        and len(points := _points(r))
    ]


def _points(reference: Mapping[str, Any]) -> np.ndarray:
    """Finite published (generation, value) pairs, float [N, 2]."""
    pairs = [(value(p[0]), value(p[1])) for p in reference.get("points") or () if len(p) == 2]
    array_N2 = np.array(pairs, float).reshape(-1, 2)
    return array_N2[np.isfinite(array_N2).all(1)]


def _draw(
    axes: "Axes", by_arm: Curves, looks: Mapping[str, Look], generations: int, small: bool = False
) -> list[End]:
    """Draws every arm; returns where the curves end."""
    ends = []
    bars = generations <= BARS and len(by_arm) <= 6
    step = 0.07 * min(1.0, generations / 6)
    for at, (arm, curve) in enumerate(by_arm.items()):
        shift = (at - (len(by_arm) - 1) / 2) * step if bars else 0.0
        x, y = _draw_arm(axes, curve, looks[arm], shift, bars, small, crowd=len(by_arm))
        ends.append(End(x, y, arm, looks[arm].colour, "-"))
    return ends


def _draw_arm(
    axes: "Axes", curve: Curve, look: Look, shift: float, bars: bool, small: bool, crowd: int
) -> tuple[float, float]:
    x_G = curve.generations_G + shift
    law = np.isfinite(curve.predicted_G).any()
    if 1 < len(curve.seeds) <= THIN_SEEDS and not law:
        axes.plot(x_G, curve.values_SG.T, color=look.colour, lw=0.7, alpha=0.38, zorder=2)
    whole_G = curve.whole_G
    x, mean, half = x_G[whole_G], curve.mean_G[whole_G], np.nan_to_num(curve.half_G[whole_G])
    style = {"color": look.colour, "zorder": 4}
    size = (3.2 if small else 4.6) if len(x) <= 30 else 0.0
    if law:
        axes.plot(x_G, curve.predicted_G, ls=look.dash, lw=1.5, **style)
        keep = np.unique(np.geomspace(1, len(x), 18).round().astype(int)) - 1 if len(x) > 18 else slice(None)
        axes.errorbar(
            x[keep],
            mean[keep],
            half[keep],
            ls="none",
            marker=look.marker,
            mfc="white",
            mew=1.2,
            ms=3.2 if small else 4.4,
            elinewidth=1.2,
            capsize=2,
            **style,
        )
    else:
        axes.plot(
            x,
            mean,
            ls=look.dash,
            marker=look.marker,
            ms=size,
            mec="white",
            mew=0.6,
            lw=1.4 if small else 2.0,
            **style,
        )
        if bars and half.any():
            axes.errorbar(x, mean, half, ls="none", elinewidth=1.1, capsize=2.5, alpha=0.75, **style)
        elif half.any():
            axes.fill_between(
                x, mean - half, mean + half, color=look.colour, lw=0, alpha=0.16 if crowd <= 6 else 0.08
            )
    _draw_diverged(axes, curve, x_G, look.colour)
    level_G = np.where(np.isfinite(curve.mean_G), curve.mean_G, curve.predicted_G)
    last = np.flatnonzero(np.isfinite(level_G))
    return (float(x_G[last[-1]]), float(level_G[last[-1]])) if len(last) else (math.nan, math.nan)


def _draw_diverged(axes: "Axes", curve: Curve, x_G: np.ndarray, colour: str) -> None:
    """A cross where a seed diverged, at the height of its last finite value and joined to it."""
    for row_G, gone_G in zip(curve.values_SG, curve.diverged_SG, strict=True):
        if gone_G.any():
            first = int(gone_G.argmax())
            before = np.flatnonzero(np.isfinite(row_G[:first]))[-1:]
            level = float(row_G[before][0]) if len(before) else math.nan
            x = [*x_G[before], x_G[first]]
            axes.plot(x, [level] * len(x), ls=":", lw=1, color=colour)
            axes.plot(x[-1], level, marker="x", ms=8, mew=2.2, color=colour, zorder=6, clip_on=False)


def _draw_published(
    axes: "Axes", reference: Mapping[str, Any], points_N2: np.ndarray, looks: Mapping[str, Look]
) -> End:
    look = looks.get(str(reference.get("arm")))
    colour = look.colour if look else QUIET
    axes.plot(
        points_N2[:, 0],
        points_N2[:, 1],
        color=colour,
        ls=(0, (5, 2.5)),
        lw=1.1,
        alpha=0.9,
        zorder=3,
        marker=look.marker if look else "o",
        ms=3.4,
        mfc="white",
        mew=0.9,
    )
    x, y = (float(v) for v in points_N2[-1])
    return End(x, y, reference["label"], colour, (0, (0.9, 0.5)))


def _draw_z(axes: "Axes", by_arm: Curves, looks: Mapping[str, Look]) -> None:
    """Distance of the simulated mean from the law in standard errors; 2 is shaded."""
    axes.axhspan(-2, 2, color="#eef1f6", lw=0, zorder=0)
    axes.axhline(0, color=INK, lw=0.7, zorder=1)
    reach = 3.0
    for arm, curve in by_arm.items():
        z_G = curve.z_G
        many = len(z_G) > 30
        axes.plot(
            curve.generations_G,
            z_G,
            color=looks[arm].colour,
            marker=looks[arm].marker,
            lw=1.0,
            ms=2 if many else 3.6,
            alpha=0.9,
        )
        reach = max(reach, float(np.abs(z_G[np.isfinite(z_G)]).max(initial=0)) * 1.15)
    axes.set_ylim(-reach, reach)
    axes.grid(False)
    axes.set_ylabel("z")
    axes.set_xlabel("generation")
