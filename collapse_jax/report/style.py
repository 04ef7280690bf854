"""One look for every figure: type, a colour and a marker per arm, and the way to a PNG."""

import io
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, QUIET, RULE = "#1d2430", "#667085", "#e3e7ee"
REAL, SYNTHETIC = "#2f5d50", "#8a5a9e"
DPI = 150

# Okabe and Ito's colours without the yellow (too faint on white), then dark ones of Paul Tol's muted set.
COLOURS = (
    "#D55E00",
    "#0072B2",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#882255",
    "#332288",
    "#117733",
    "#999933",
    "#AA4499",
    "#7F7F7F",
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "d")
FIRST_CHOICE = {
    "replace": 0,
    "accumulate": 1,
    "accumulate_subsample": 2,
    "replace_multiple": 3,
    "augment": 4,
    "fresh": 5,
}
SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#98a2b3",
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "text.parse_math": False,
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-4, 5),
}


@dataclass(frozen=True)
class Look:
    """How an arm is drawn everywhere."""

    colour: str
    marker: str
    dash: str


def looks(arms: Mapping[str, Mapping[str, Any]]) -> dict[str, Look]:
    """A look per arm: workflows that have one keep their usual colour, the others take the next free one."""
    taken: dict[str, int] = {}
    for arm, settings in arms.items():
        wish = FIRST_CHOICE.get(str(settings.get("workflow", arm)))
        if wish is not None and wish not in taken.values():
            taken[arm] = wish
    free = (i for i in range(10**6) if i not in set(taken.values()))
    dashes = ("-", "--", ":", "-.")
    out = {}
    for arm in arms:
        i = taken[arm] if arm in taken else next(free)
        lap, place = divmod(i, len(COLOURS))
        out[arm] = Look(COLOURS[place], MARKERS[(place + lap) % len(MARKERS)], dashes[lap % len(dashes)])
    return out


def png(draw: Callable[["Figure"], None], width: float, height: float, dpi: int = DPI) -> bytes:
    """The PNG of what `draw` puts on a figure of width x height inches; equal input gives equal bytes."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        # a name in a script that the font lacks is drawn as boxes; the page shows it in full
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = Figure(figsize=(width, height), dpi=dpi, facecolor="white")
        FigureCanvasAgg(figure)
        draw(figure)
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=dpi, metadata={"Software": None})
    return out.getvalue()


def text_width(labels: Iterable[str], size: float) -> float:
    """Inches that the longest label takes, near enough for margins."""
    return max((len(label) for label in labels), default=0) * size * 0.0081


def whole_ticks(first: int, last: int, most: int) -> list[int]:
    """Generations to label: the first one, then multiples of a round step, at most about `most` of them."""
    steps = (b * 10**p for p in range(9) for b in (1, 2, 5))
    step = next(s for s in steps if (last - first) / s < most)
    return sorted({first, *(t for t in range(0, last + 1, step) if t - first >= step * 0.6 or t == first)})


def spread(wanted: list[float], gap: float, low: float, high: float) -> list[float]:
    """Positions closest to those wanted that keep `gap` between neighbours, inside [low, high] if they fit.

    Neighbours that collide become a block standing at the mean of its wishes; blocks that collide merge.
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    blocks: list[list[float]] = []  # [sum of (wish - offset), members]
    for i in order:
        blocks.append([wanted[i], 1])
        while len(blocks) > 1:
            (sum_a, n_a), (sum_b, n_b) = blocks[-2:]
            if sum_a / n_a + gap * n_a <= sum_b / n_b:
                break
            blocks[-2:] = [[sum_a + sum_b - gap * n_a * n_b, n_a + n_b]]
    places = [start / n + gap * k for start, n in blocks for k in range(int(n))]
    if places:
        for k in range(len(places)):
            places[k] = max(places[k], low + gap * k)
        for k in reversed(range(len(places))):
            places[k] = min(places[k], high - gap * (len(places) - 1 - k))
    out = [0.0] * len(wanted)
    for i, place in zip(order, places, strict=True):
        out[i] = place
    return out
