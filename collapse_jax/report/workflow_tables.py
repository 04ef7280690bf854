"""A workflow drawn: generation against source, real and synthetic rows in their own colours."""

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from collapse_jax.report.style import INK, QUIET, REAL, SYNTHETIC, png, text_width, whole_ticks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELLED = 8


def workflow_table(arm: str, table_TS: np.ndarray, rows: int) -> bytes:
    """Heat map of the expected rows used, float [generations, generations]; entry [t - 1, k] is source k.

    Colour is the share of the largest entry, labels are multiples of the `rows` real rows n.
    """
    return _workflow_table(arm, tuple(map(tuple, table_TS.tolist())), rows)


@lru_cache(64)
def _workflow_table(arm: str, table: tuple[tuple[float, ...], ...], rows: int) -> bytes:
    table_TS = np.array(table)
    count = len(table_TS)
    width, height = 3.4, 3.62

    def draw(figure: "Figure") -> None:
        from matplotlib.ticker import FuncFormatter

        size = min(10.5, 3.1 / text_width([arm], 1.1))
        figure.text(0.14 / width, 1 - 0.2 / height, arm, fontsize=size, weight="bold", va="center")
        axes = figure.add_axes((0.56 / width, 0.12 / height, 2.7 / width, 2.7 / height))
        share_TS = table_TS / (table_TS.max() or 1)
        axes.imshow(
            _paint(share_TS),
            interpolation="nearest",
            aspect="auto",
            extent=(-0.5, count - 0.5, count + 0.5, 0.5),
        )
        if count <= 20:
            lines = np.arange(count + 1)
            axes.vlines(lines - 0.5, 0.5, count + 0.5, color="white", lw=1.5)
            axes.hlines(lines + 0.5, -0.5, count - 0.5, color="white", lw=1.5)
        if count <= LABELLED:
            for t, k in zip(*np.nonzero(table_TS), strict=True):
                axes.text(
                    k,
                    t + 1,
                    _multiple(float(table_TS[t, k]) / (rows or 1)),
                    ha="center",
                    va="center",
                    fontsize=8.5,
                    color="white" if share_TS[t, k] > 0.6 else INK,
                )
        axes.grid(False)
        for side in axes.spines.values():
            side.set_visible(False)
        axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False, pad=3)
        axes.set_xticks(whole_ticks(0, count - 1, 9))
        axes.set_yticks(whole_ticks(1, count, 9))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda k, _: "real" if round(k) == 0 else f"{k:.0f}"))
        axes.set_xlim(-0.5, count - 0.5)
        axes.set_ylim(count + 0.5, 0.5)
        axes.xaxis.set_label_position("top")
        axes.set_xlabel("source", fontsize=9, color=QUIET, labelpad=6)
        axes.set_ylabel("generation", fontsize=9, color=QUIET)

    return png(draw, width, height, dpi=140)


def _paint(share_TS: np.ndarray) -> np.ndarray:
    """RGB [T, S, 3]: white where nothing is used, towards the source's colour with its share."""
    from matplotlib.colors import to_rgb

    full_S3 = np.array([to_rgb(REAL)] + [to_rgb(SYNTHETIC)] * (share_TS.shape[1] - 1))
    depth_TS1 = np.where(share_TS > 0, 0.16 + 0.84 * share_TS, 0)[..., None]
    blank = np.tril(np.ones(share_TS.shape))[..., None] * np.array(to_rgb("#f2f4f7"))
    blank = np.where(blank > 0, blank, 1.0)
    return np.where(depth_TS1 > 0, 1 - depth_TS1 * (1 - full_S3), blank)


def _multiple(x: float) -> str:
    """A multiple of n, as a small fraction where it is one."""
    for below in (2, 3, 4, 5, 6, 7, 8):
        if x < 1 and math.isclose(x * below, round(x * below), abs_tol=0.01) and round(x * below):
            return f"{round(x * below)}/{below}"
    return f"{x:.2g}" if x < 100 else f"{x:.0f}"
