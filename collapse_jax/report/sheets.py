"""Pictures of samples as one sheet: arms from top to bottom, generations from left to right."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from collapse_jax.report.shows import Picture, spaced
from collapse_jax.report.style import INK, QUIET, Look, png, text_width

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 200
WIDTH = 10.6  # inches of the widest sheet
GAP, HEAD, NAME, STRIPE = 24, 46, 58, 12  # pixels: between pictures, of headings, of arms' names
SHRUNK, FEWEST = 0.66, 3  # of its width a picture keeps, down to so many columns
LARGEST = 6 << 20  # bytes; a sheet that takes more is drawn smaller
ENLARGED, SMOOTH, TALL = 8, 2, 2  # times its pixels, the same if smoothed, times its width: the most it takes
WHOLE = 4  # times and more are rounded down
Cells = Mapping[str, Mapping[int, Picture]]


def sheet(cells: Cells, looks: Mapping[str, Look], largest: int = LARGEST) -> bytes:
    """arm -> generation -> picture, enlarged without smoothing where they are to be pixelated.

    A picture that is the same everywhere, such as one of real rows, is drawn once. A sheet of more than
    `largest` bytes is drawn smaller, to a fifth of its width at the least.
    """
    once = _single(cells)
    if once is not None:
        cells = {"": {0: once}}
    width = WIDTH
    while True:
        image = _sheet(cells, looks, width)
        if len(image) <= largest or width <= WIDTH / 5:
            return image
        width = max(WIDTH / 5, width * min(0.9, 0.95 * (largest / len(image)) ** 0.5))


def single(cells: Cells) -> bool:
    """Whether the sheet holds one picture, the same for every arm and generation."""
    return _single(cells) is not None


def _single(cells: Cells) -> Picture | None:
    every = [p for by_t in cells.values() for p in by_t.values()]
    first = every[0].pixels
    same = first is not None and all(p.pixels is not None and np.array_equal(first, p.pixels) for p in every)
    return every[0] if same and len(every) > 1 else None


def _sheet(cells: Cells, looks: Mapping[str, Look], width: float) -> bytes:
    columns = _columns(cells)
    plain = columns == [0]
    room = (width * DPI + GAP) / len(columns) - GAP
    images = {(a, t): _scaled(p, room) for a, by_t in cells.items() for t, p in by_t.items() if t in columns}
    wide = [max(i.shape[1] for (_, t), i in images.items() if t == column) for column in columns]
    tall = [max(i.shape[0] for (arm, _), i in images.items() if arm == row) for row in cells]
    name = 0 if plain else NAME
    x_C = np.cumsum([0, *(w + GAP for w in wide)])
    y_R = (0 if plain else HEAD) + name + np.cumsum([0, *(h + GAP + name for h in tall)])
    least = 0 if plain else max(int(text_width([arm], 10.5) * DPI) + 2 * GAP for arm in cells)
    canvas = np.full((int(y_R[-1]) - GAP - name, max(int(x_C[-1]) - GAP, least), 3), 255, np.uint8)
    for row, arm in enumerate(cells):
        for column, t in enumerate(columns):
            if (arm, t) in images:
                _put(canvas, images[arm, t], int(x_C[column]), int(y_R[row]))
    if plain:
        return _drawn(canvas, [])
    texts = [*_heads(columns, x_C, wide), *_unreadable(cells, columns, x_C, y_R)]
    for arm, y in zip(cells, y_R[:-1], strict=True):
        canvas[y - NAME + 8 : y - 12, :STRIPE] = _rgb(looks[arm].colour)
        texts.append((STRIPE + 14, int(y) - NAME // 2 - 2, arm, INK, "bold", 10))
    return _drawn(canvas, texts)


def _columns(cells: Cells) -> list[int]:
    """Generations to draw: all, fewer where the pictures are so wide that little would be seen of them."""
    there = sorted({t for by_t in cells.values() for t in by_t})
    wide = [p.pixels.shape[1] for by_t in cells.values() for p in by_t.values() if p.pixels is not None]
    most = int((WIDTH * DPI + GAP) / (SHRUNK * max(wide, default=1) + GAP))
    return [there[at - 1] for at in spaced(len(there), max(FEWEST, most))]


def _drawn(canvas: np.ndarray, texts: Sequence[tuple[Any, ...]]) -> bytes:
    """The canvas pixel by pixel with texts (x, y, words, colour, weight, points) centred at their height."""
    height, width = canvas.shape[:2]

    def draw(figure: "Figure") -> None:
        figure.figimage(canvas, 0, 0, origin="upper")
        for x, y, words, colour, weight, size in texts:
            place = x / width, 1 - y / height
            figure.text(*place, words, color=colour, weight=weight, fontsize=size, va="center_baseline")

    return png(draw, width / DPI, height / DPI, dpi=DPI)


def _heads(columns: Sequence[int], x_C: np.ndarray, wide: Sequence[int]) -> list[tuple[Any, ...]]:
    """`generation 1` above the first column, numbers alone where a column is narrow."""
    room = min(wide) / DPI
    told = "generation {}" if text_width(["generation 10"], 9) < room else "gen. {}" if room > 0.5 else "{}"
    return [
        (int(x), HEAD // 2, told.format(t), QUIET, "normal", 9)
        for t, x in zip(columns, x_C[:-1], strict=True)
    ]


def _unreadable(
    cells: Cells, columns: Sequence[int], x_C: np.ndarray, y_R: np.ndarray
) -> list[tuple[Any, ...]]:
    return [
        (int(x_C[columns.index(t)]), int(y_R[row]) + 18, "not a PNG", QUIET, "normal", 8)
        for row, by_t in enumerate(cells.values())
        for t, picture in by_t.items()
        if picture.pixels is None and t in columns
    ]


def _scaled(picture: Picture, room: float) -> np.ndarray:
    """Pixels as wide as there is room; without smoothing where asked for, by a whole factor if that loses little."""
    if picture.pixels is None:
        return np.full((60, max(int(room), 1), 3), 247, np.uint8)
    height, width = picture.pixels.shape[:2]
    most = min(room / width, TALL * room / height, ENLARGED if picture.pixelated else SMOOTH)
    pixels = picture.pixels
    if picture.pixelated and most >= 1:
        if most >= WHOLE:
            return pixels.repeat(int(most), 0).repeat(int(most), 1)
        pixels = pixels.repeat(math.ceil(most), 0).repeat(math.ceil(most), 1)
    from PIL import Image

    size = max(1, round(width * most)), max(1, round(height * most))
    how = Image.Resampling.BOX if picture.pixelated else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(pixels).resize(size, how))


def _put(canvas: np.ndarray, image: np.ndarray, x: int, y: int) -> None:
    canvas[y : y + image.shape[0], x : x + image.shape[1]] = image


def _rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)], np.uint8)
