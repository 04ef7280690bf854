"""What samples are made of, one small plot an arm on common axes: class shares stacked, histograms overlaid."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from collapse_jax.report.shows import Histogram, Shares
from collapse_jax.report.style import INK, QUIET, Look, png, text_width, whole_ticks
from collapse_jax.report.words import cut, spoken

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
ACROSS, WIDE, TALL = 3, 10.2, 2.35  # plots side by side, inches of all of them, inches of one
CLASSES = 12  # that have a colour of their own; the others are added up
REST, REST_NAME = "#c5cad3", "others"
# Paul Tol's muted and light sets by turns, so that neighbours in a stack differ in lightness too.
SHADES = (
    "#332288",
    "#77AADD",
    "#117733",
    "#BBCC33",
    "#882255",
    "#FFAABB",
    "#44AA99",
    "#EEDD88",
    "#AA4499",
    "#99DDFF",
    "#999933",
    "#EE8866",
)
EARLY, LATE = 0.82, 0.12  # of the colour map of generations: light first, dark last


def share_stack(by_arm: Mapping[str, Mapping[int, Shares]], looks: Mapping[str, Look]) -> bytes:
    """Shares of classes stacked by generation, with the real data as a column of its own on the left."""
    first = next(iter(next(iter(by_arm.values())).values()))
    kept, names = _classes(first)
    names = [*names, REST_NAME] if len(kept) < len(first.names) else names
    columns = sorted({t for by_t in by_arm.values() for t in by_t})
    labels = [cut(name, 18) for name in names]

    def plot(axes: "Axes", arm: str) -> None:
        by_t = {t: s for t, s in by_arm[arm].items() if s.names == first.names}
        gap = max(1.5, 0.09 * (columns[-1] - columns[0] + 1))
        width = 1.0 if len(columns) > 30 else 0.86
        bars: dict[float, np.ndarray] = {t: s.values for t, s in by_t.items()}
        real = columns[0] - gap
        if first.real is not None:
            bars[real] = first.real
        x = np.array(list(bars))
        shares_NC = np.stack([_gathered(v, kept) for v in bars.values()])
        wide_N = np.where(x == real, max(0.86, 0.05 * (columns[-1] - real)), width)
        line = 0.0 if width == 1.0 else 0.6
        top_N = np.zeros(len(x))
        for c, colour in enumerate(_shades(len(kept), shares_NC.shape[1])):
            axes.bar(x, shares_NC[:, c], wide_N, top_N, color=colour, edgecolor="white", lw=line)
            top_N += shares_NC[:, c]
        ticks = whole_ticks(columns[0], columns[-1], 8)
        there = first.real is not None
        axes.set_xticks([real, *ticks] if there else ticks, ["real", *map(str, ticks)] if there else None)
        axes.set_xlim((real if there else columns[0]) - 0.7 * wide_N.max(), columns[-1] + 0.7 * width)
        axes.set_ylim(0, max(1.0, float(top_N.max())))
        axes.grid(False)
        axes.set_xlabel("generation")

    swatches = [("bar", c, n) for c, n in zip(_shades(len(kept), len(names)), labels, strict=True)]
    return _facets(by_arm, looks, plot, "share of samples", swatches[::-1])


def _classes(first: Shares) -> tuple[list[int], list[str]]:
    """Places and names of the classes that are drawn apart: all, or the commonest in the order given."""
    order = first.values if first.real is None else first.real
    count = len(first.names) if len(first.names) <= CLASSES else CLASSES - 1
    kept = sorted(np.argsort(-order, kind="stable")[:count].tolist())
    return kept, [first.names[c] for c in kept]


def _gathered(values_C: np.ndarray, kept: Sequence[int]) -> np.ndarray:
    """The kept classes and, where some are left out, the sum of the others."""
    own = values_C[list(kept)]
    return own if len(kept) == len(values_C) else np.append(own, values_C.sum() - own.sum())


def _shades(kept: int, drawn: int) -> list[str]:
    return [*SHADES[:kept], *[REST] * (drawn - kept)]


def histograms(by_arm: Mapping[str, Mapping[int, Histogram]], looks: Mapping[str, Look]) -> bytes:
    """Densities as steps, the first generation light and the last one dark, the real data as a grey area."""
    import matplotlib

    first = next(iter(next(iter(by_arm.values())).values()))
    columns = sorted({t for by_t in by_arm.values() for t in by_t})
    depth = np.linspace(EARLY, LATE, len(columns)) if len(columns) > 1 else [LATE]
    colour = dict(zip(columns, matplotlib.colormaps["viridis"](depth), strict=True))
    every = [h for by_t in by_arm.values() for h in by_t.values()]
    top = max(float(_density(x, h.edges).max()) for h in every for x in (h.values, h.real) if x is not None)
    low, high = _span(every)

    def plot(axes: "Axes", arm: str) -> None:
        if first.real is not None:
            axes.stairs(_density(first.real, first.edges), first.edges, fill=True, color="#d9dde4", zorder=1)
        for t, h in by_arm[arm].items():
            axes.stairs(_density(h.values, h.edges), h.edges, color=colour[t], lw=1.5, zorder=2 + t)
        axes.set_xlim(low, high)
        axes.set_ylim(0, 1.06 * top or 1.0)
        axes.set_xlabel(f"{spoken(first.title)} [{first.unit}]" if first.unit else spoken(first.title))

    lines = [("line", colour[t], f"generation {t}") for t in columns]
    real = [("bar", "#d9dde4", "real data")] if first.real is not None else []
    return _facets(
        by_arm, looks, plot, f"density [1/{first.unit}]" if first.unit else "density", [*real, *lines]
    )


def _density(shares: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Shares of bins per unit of their width: bins of any width can be compared."""
    return shares / np.diff(edges)


def _span(every: Sequence[Histogram]) -> tuple[float, float]:
    """From the first to the last bin that holds anything, and a little more."""
    low, high = np.inf, -np.inf
    for h in every:
        for shares in (h.values, h.real):
            if shares is not None and shares.any():
                held = np.flatnonzero(shares)
                low, high = min(low, h.edges[held[0]]), max(high, h.edges[held[-1] + 1])
    if not low < high:
        return float(every[0].edges[0]), float(every[0].edges[-1])
    return float(low - 0.03 * (high - low)), float(high + 0.03 * (high - low))


def _facets(
    arms: Mapping[str, Any],
    looks: Mapping[str, Look],
    plot: Callable[["Axes", str], None],
    ylabel: str,
    keys: Sequence[tuple[str, Any, str]],
) -> bytes:
    """A plot an arm under its name, the y axis on the left alone, one legend on the right of all."""
    across = min(len(arms), ACROSS)
    down = -(-len(arms) // across)
    right = text_width([name for *_, name in keys], 9) + 0.62
    left, one = 0.62, min((WIDE - 0.62 - right) / across - 0.22, 4.4)
    width = left + across * (one + 0.22) + right
    tall = max(TALL, 0.2 * len(keys) if down == 1 else 0)
    row = tall + 0.86
    height = down * row + 0.06

    def draw(figure: "Figure") -> None:
        from matplotlib.ticker import MaxNLocator

        for at, arm in enumerate(arms):
            y, x = divmod(at, across)
            corner = (left + x * (one + 0.22)) / width, 1 - (y * row + 0.34 + tall) / height
            axes = figure.add_axes((*corner, one / width, tall / height))
            plot(axes, arm)
            axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
            name, size = _fitting(arm, one - 0.1)
            axes.set_title(name, pad=7, x=0.1 / one, fontsize=size)
            axes.plot(
                [0.0, 0.0], [1.035, 1.105], transform=axes.transAxes, color=looks[arm].colour, lw=5,
                solid_capstyle="butt", clip_on=False,
            )  # fmt: skip
            if x == 0:
                axes.set_ylabel(ylabel)
            else:
                axes.tick_params(axis="y", labelleft=False, length=0)
        _legend(figure, keys, 1 - (right - 0.18) / width, 1 - 0.34 / height)

    return png(draw, width, height, DPI)


def _fitting(arm: str, inches: float) -> tuple[str, float]:
    """A name and the size at which it fits, cut where it would be too small."""
    size = min(10.5, 10.5 * inches / text_width([arm], 11.0))
    most = int(inches / text_width(["x"], 8.4))
    return (arm, size) if size >= 8 else (cut(arm, most), 8.0)


def _legend(figure: "Figure", keys: Sequence[tuple[str, Any, str]], x: float, y: float) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Patch(color=colour) if kind == "bar" else Line2D([], [], color=colour, lw=2.2)
        for kind, colour, _ in keys
    ]
    figure.legend(
        handles,
        [name for *_, name in keys],
        loc="upper left",
        bbox_to_anchor=(x, y),
        borderaxespad=0,
        fontsize=9,
        labelcolor=INK,
        handlelength=1.1,
        handleheight=1.0,
        labelspacing=0.35,
        edgecolor=QUIET,
    )
