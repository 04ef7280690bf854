"""What a generation left for people to look at: its show.json, read as text that anyone may have written.

Whatever is not as `families.Family.show` says is left out; a sample to look at is not worth refusing the
report for. Pictures are decoded here and nothing of the file is passed on but their pixels.
"""

import base64
import binascii
import io
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from collapse_jax import files
from collapse_jax.config import BadInput
from collapse_jax.console import loud
from collapse_jax.lineage import vouched as manifest
from collapse_jax.report.words import visible

SHOWN_TEXTS = 8  # generations of which text is shown
SHOWN_PICTURES = 6  # generations of which pictures and histograms are shown
SHOWN_SHARES = 60  # generations of which shares are shown
SHOWN_ROWS = 5
SHOWN_CHARACTERS = 700
MOST_TITLES = 12  # of each kind
MOST_VALUES = 1000  # classes of one share, bins of one histogram
MOST_PIXELS = 4 << 20  # of a picture that is decoded
MOST_SIDE = 1024  # pixels that are kept of it, along a side
MOST_BYTES = 64 << 20  # of a show.json
SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, eq=False)
class Picture:
    """pixels: uint8 RGB [H, W, 3], or None where the file is no picture. pixelated: enlarge without smoothing."""

    title: str
    pixels: np.ndarray | None
    pixelated: bool = False


@dataclass(frozen=True, eq=False)
class Shares:
    """Shares of named classes, float [C]; real: of the real data, None where not given."""

    title: str
    names: tuple[str, ...]
    values: np.ndarray
    real: np.ndarray | None = None
    seeds: int = 1


@dataclass(frozen=True, eq=False)
class Histogram:
    """Shares of bins, float [B], between edges [B + 1] in a unit; real: of the real data."""

    title: str
    unit: str
    edges: np.ndarray
    values: np.ndarray
    real: np.ndarray | None = None
    seeds: int = 1


@dataclass(frozen=True)
class Show:
    """What people look at of one generation; `prompts` are the beginnings that `lines` continue.

    Text and pictures are those of the first seed; shares and histograms are means over the seeds.
    """

    lines: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    shares: tuple[Shares, ...] = ()
    histograms: tuple[Histogram, ...] = ()


def spaced(last: int, count: int) -> list[int]:
    """At most `count` generations of 1..last, first and last included, closer together early on."""
    if last <= count:
        return list(range(1, last + 1))
    return [*sorted({1, 2, *np.geomspace(1, last, count).round().astype(int).tolist()})[: count - 1], last]


def read_shows(store: Path, chains: Mapping[str, Sequence[str]], vouched: bool = False) -> dict[int, Show]:
    """Generation -> what an arm shows, of the first seed's generations that have a show.json.

    One that is not what its manifest says is left out, with a line on stderr; `vouched`: and one without a manifest.
    """
    paths = [_paths(store, chain) for chain in chains.values()]
    there = sorted(paths[0]) if paths else []
    texts, pictures, shares = (
        {there[at - 1] for at in spaced(len(there), count)} if there else set()
        for count in (SHOWN_TEXTS, SHOWN_PICTURES, SHOWN_SHARES)
    )
    shows = {}
    for t in sorted(texts | pictures | shares):
        raws = [raw for by_t in paths if t in by_t and (raw := _raw(by_t[t], vouched)) is not None]
        if not raws:
            continue
        show = _text(raws[0]) if t in texts else Show()
        if t in pictures:
            show = replace(
                show,
                pictures=tuple(_listed(raws[0], "pictures", _picture)),
                histograms=_means(_listed(raw, "histograms", _histogram) for raw in raws),
            )
        if t in shares:
            show = replace(show, shares=_means(_listed(raw, "shares", _shares) for raw in raws))
        shows[t] = show
    return shows


def _paths(store: Path, chain: Sequence[str]) -> dict[int, Path]:
    """Generation -> its show.json, where there is one."""
    safe = [(t, i) for t, i in enumerate(chain, 1) if re.fullmatch(r"[\w-]+", i)]
    return {t: path for t, i in safe if (path := store / "generations" / i / "show.json").is_file()}


def _raw(path: Path, vouched: bool) -> dict[str, Any] | None:
    if path.stat().st_size > MOST_BYTES:
        return None
    try:
        if vouched or (path.parent / "manifest.json").exists():
            said = manifest(path.parent)["files"].get(path.name)
            if said is None or not files.matches(path, said):
                raise BadInput(f"{path} is damaged or missing")
    except BadInput as error:
        if (path.parent / "manifest.json").exists():  # else its generation is at work
            loud(f"{error}; what it shows is left out of the report, run the experiment again to mend it")
        return None
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return None
    return raw if isinstance(raw, dict) else None


def _text(raw: Mapping[str, Any]) -> Show:
    lines, prompts = (
        tuple(_clip(str(line), SHOWN_CHARACTERS) for line in found[:SHOWN_ROWS])
        for found in (_list(raw.get("lines")), _list(raw.get("prompts")))
    )
    return Show(lines, prompts)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _clip(text: str, most: int) -> str:
    text = visible(text[: most + 1])
    return text if len(text) <= most else text[:most] + " …"


Item = TypeVar("Item", Picture, Shares, Histogram)


def _listed(
    raw: Mapping[str, Any], kind: str, read: Callable[[Mapping[str, Any]], Item | None]
) -> list[Item]:
    """The items of one kind that can be read, one a title."""
    found: dict[str, Item] = {}
    for entry in _list(raw.get(kind))[: 4 * MOST_TITLES]:
        item = read(entry) if isinstance(entry, dict) else None
        if item is not None:
            found.setdefault(item.title, item)
    return list(found.values())[:MOST_TITLES]


def _title(entry: Mapping[str, Any]) -> str:
    return " ".join(_clip(str(entry.get("title") or "untitled"), 80).split())


def _picture(entry: Mapping[str, Any]) -> Picture:
    return Picture(_title(entry), _pixels(entry.get("png")), entry.get("pixelated") is True)


def _pixels(text: Any) -> np.ndarray | None:
    """The pixels of a base64 PNG on white, or None where it is none or larger than a picture here may be."""
    from PIL import Image

    try:
        data = base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error):
        return None
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    if data[:8] != SIGNATURE or data[12:16] != b"IHDR" or not 0 < width * height <= MOST_PIXELS:
        return None
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            rgba = image.convert("RGBA")
        rgba.thumbnail((MOST_SIDE, MOST_SIDE), Image.Resampling.LANCZOS)
        return np.array(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB"))
    except Exception:  # a damaged PNG makes Pillow raise half a dozen kinds of error
        return None


def _numbers(values: Any, count: int) -> np.ndarray | None:
    """`count` finite shares that are not negative, float [count]."""
    if not isinstance(values, list) or len(values) != count or not 0 < count <= MOST_VALUES:
        return None
    try:
        array = np.array(values, float)
    except (TypeError, ValueError, OverflowError):
        return None
    return array if array.shape == (count,) and np.isfinite(array).all() and (array >= 0).all() else None


def _shares(entry: Mapping[str, Any]) -> Shares | None:
    names = tuple(_clip(str(n), 24) for n in _list(entry.get("names"))[: MOST_VALUES + 1])
    values = _numbers(entry.get("values"), len(names))
    return (
        None
        if values is None
        else Shares(_title(entry), names, values, _numbers(entry.get("real"), len(names)))
    )


def _histogram(entry: Mapping[str, Any]) -> Histogram | None:
    raw = entry.get("edges")
    bins = len(_list(raw)) - 1
    values, real = _numbers(entry.get("values"), bins), _numbers(entry.get("real"), bins)
    try:
        edges = np.array(raw, float)
    except (TypeError, ValueError, OverflowError):
        return None
    if (
        values is None
        or edges.shape != (bins + 1,)
        or not np.isfinite(edges).all()
        or (np.diff(edges) <= 0).any()
    ):
        return None
    return Histogram(_title(entry), _clip(str(entry.get("unit") or ""), 24), edges, values, real)


def _means(by_seed: Iterable[Sequence[Any]]) -> tuple[Any, ...]:
    """Items of several seeds as means over those that have the first seed's classes or bins."""
    groups: dict[str, list[Any]] = defaultdict(list)
    for items in by_seed:
        for item in items:
            groups[item.title].append(item)
    return tuple(_mean(items) for items in groups.values())


def _mean(items: Sequence[Any]) -> Any:
    first = items[0]
    alike = [x for x in items if _same(first, x)]
    return replace(first, values=np.mean([x.values for x in alike], 0), seeds=len(alike))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Shares):
        return a.names == b.names
    return a.unit == b.unit and np.array_equal(a.edges, b.edges)
