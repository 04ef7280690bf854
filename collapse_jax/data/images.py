"""Pictures into rows: split by group, bring to one size and colouring, write."""

import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from collapse_jax import rng
from collapse_jax.config import BadInput, choice, identity, number, path, text
from collapse_jax.data import cache, image_sources, picture_reader, splits
from collapse_jax.data.dataset import SPLITS, Dataset
from collapse_jax.data.picture_reader import Reader, Scan
from collapse_jax.data.pictures import COLOUR, FRAMES, Pictures, few
from collapse_jax.data.records import Row, Spec

VERSION = 2  # raise when the same settings and pictures would give other rows


@dataclass(frozen=True)
class ImageData:
    """Real images and how they become rows {"image": uint8 [H, W, C], "label": int32}, -1 where there is no class.

    source: builtin:digits, images:DIR_OR_GLOB (PNG, JPEG, WebP, BMP, GIF, TIFF, ... in folders named after splits
        and classes, see image_folders.load), npz:FILE[:KEY], idx:FILE_OR_DIR (as MNIST ships), tfds:NAME[:SPLIT],
        or rows:DIR (a directory made by an earlier import; its own settings hold).
    labels: "source" takes the classes that the source says, "none" none, as where folders are but shards.
    unreadable: pictures that cannot be decoded: "refuse" names them all, "leave out" does without them.
    size: side of the square rows in pixels; 0 keeps pictures as they are, which must then be of one size.
    fit: how a picture gets there: "crop" takes the middle square and resizes it, "pad" surrounds the picture
        with the colour of its edge.
    channels: 1 for grey, 3 for colour, 0 for what the source has (3 where any of its pictures is in colour).
    group: regular expression; pictures in whose names it finds the same (its parenthesised parts, if any) are
        variants of one thing and go to one split together. "": as the source says, and exact copies always.
    validation, test: shares of the pictures held out, at least one group each, where the source does not itself
        hold some out.
    max_rows: at most so many training rows, drawn at random (0: all).
    data_dir: where tfds keeps its files.
    column, label_column: of a tfds table that hold the pictures and their classes ("": image, label or the only ones).
    """

    source: str = path("builtin:digits")
    labels: str = choice("source", ("source", "none"))
    unreadable: str = choice("refuse", ("refuse", "leave out"))
    size: int = number(0, 0, 1024)
    fit: str = choice("crop", ("crop", "pad"))
    channels: int = number(0, 0, 3)
    group: str = text("")
    validation: float = number(0.1, 0.0, 0.9)
    test: float = number(0.1, 0.0, 0.9)
    seed: int = number(0, 0)
    max_rows: int = number(0, 0)
    data_dir: str = path("", identity=False)
    column: str = text("")
    label_column: str = text("")

    def problems(self) -> Iterator[str]:
        if wrong := image_sources.problem(self.source):
            yield wrong
        if self.channels == 2:
            yield "channels=2 is not 1 (grey), 3 (colour) or 0 (as the source has them)"
        if self.fit == "pad" and not self.size:
            yield "fit='pad' needs a size to pad to"
        try:
            re.compile(self.group)
        except re.error as error:
            yield f"group={self.group!r} is no regular expression ({error})"
        if self.validation + self.test >= 1:
            yield f"validation={self.validation:g} and test={self.test:g} leave nothing to train on"


def prepare(settings: ImageData, store: Path) -> Dataset:
    """The rows of the settings, from `store/data` when they are there and sound, made otherwise.

    What becomes of a picture depends on its content, class and group, not on where it lies or in which order.
    `Dataset.info` adds `classes` (names), `class_counts` (split -> rows of each class) and counts `groups` in each
    split. Raises `BadInput` when the source, the settings or the disk do not allow it.
    """
    if problems := list(settings.problems()):
        raise BadInput("; ".join(problems))
    if settings.source.startswith("rows:"):
        return cache.given(settings.source, ("image", "label"))
    pictures = image_sources.load(settings.source, settings.data_dir, settings.column, settings.label_column)
    if settings.labels == "none":
        pictures = pictures.without_classes()
    scan = picture_reader.scan(pictures)
    if scan.unreadable and settings.unreadable == "refuse":
        raise picture_reader.refusal(pictures)
    groups = _groups(settings, pictures, scan)
    matter = {
        k: v for k, v in identity(settings).items() if k not in ("source", "group", "column", "label_column")
    }
    entries = zip(scan.digests, scan.labels_N.tolist(), pictures.held_out, groups, strict=True)
    key = cache.key(
        {
            "version": VERSION,
            "classes": pictures.classes,
            "about": pictures.about,
            "notes": pictures.notes,
            **matter,
        },
        (repr(entry).encode() for entry in sorted(entries)),
    )

    def fill(draft: cache.Draft) -> dict[str, Any]:
        return _fill(draft, settings, pictures, scan, groups)

    return cache.obtain(store, key, fill)


def _groups(settings: ImageData, pictures: Pictures, scan: Scan) -> list[str]:
    """Name of the group of every picture. Raises `BadInput`."""
    if settings.group:
        if pictures.names is None:
            raise BadInput(
                f"group={settings.group!r}: the pictures of {settings.source} have no names; leave it empty"
            )
        found = (re.search(settings.group, name) for name in pictures.names)
        named = [
            "/".join(match.groups("") or [match[0]]) if match else digest
            for match, digest in zip(found, scan.digests, strict=True)
        ]
    elif pictures.groups is not None:
        named = pictures.groups
    else:
        return scan.digests
    return splits.merged(named, scan.digests)


def _split(
    settings: ImageData, pictures: Pictures, scan: Scan, groups: list[str], out: Container[int]
) -> dict[str, np.ndarray]:
    """Numbers of the pictures of each split, in the order of its rows, without `out`. Raises `BadInput`."""
    held_out = np.array(["out" if i in out else split for i, split in enumerate(pictures.held_out)], np.str_)
    free = np.flatnonzero(held_out == "")
    shares = {s: getattr(settings, s) for s in SPLITS[1:] if s not in held_out}
    own = [groups[i] for i in free]
    what = f"{settings.source} has {len(set(own))} separate picture(s) or group(s)"
    found = splits.by_group(own, shares, settings.seed, what)
    chosen = {}
    for k, name in enumerate(SPLITS):
        members = free[found[name]] if name in found else np.flatnonzero(held_out == name)
        order = sorted(members.tolist(), key=lambda i: (scan.digests[i], scan.labels_N[i]))
        chosen[name] = np.array(order)[rng.host("images", settings.seed, k).permutation(len(order))]
    if settings.max_rows:
        chosen["train"] = chosen["train"][: settings.max_rows]
    return chosen


def _fill(
    draft: cache.Draft, settings: ImageData, pictures: Pictures, scan: Scan, groups: list[str]
) -> dict[str, Any]:
    out = picture_reader.unreadable(pictures) if settings.unreadable == "leave out" else {}
    chosen = _split(settings, pictures, scan, groups, out)
    channels = settings.channels or (3 if COLOUR in scan.traits else 1)
    read = Reader(pictures, scan.digests, settings.size, channels, settings.fit)

    def batches(rows: np.ndarray) -> Iterator[Row]:
        done = 0
        for images in read.batches(rows, shape):
            yield {"image": images, "label": scan.labels_N[rows[done : done + len(images)]]}
            done += len(images)

    try:
        shape = read(chosen["train"][0]).shape
        spec: Spec = {"image": (shape, "uint8"), "label": ((), "int32")}
        for name in SPLITS:
            draft.write_split(name, spec, batches(chosen[name]))
    except picture_reader.Unreadable as error:
        raise picture_reader.refusal(pictures) from error
    classes = pictures.classes
    counts = {
        name: np.bincount(scan.labels_N[rows] + 1, minlength=len(classes) + 1)[1:]
        for name, rows in chosen.items()
    }
    by_folder = []
    if classes and settings.source.startswith("images:"):
        by_folder = ["classes are named by folders; set labels='none' where folders are no classes"]
    own = [name for name in SPLITS[1:] if name in pictures.held_out]
    shared = [name for name in SPLITS[1:] if name not in own]
    about = {**pictures.about, "images": f"{shape[0]} x {shape[1]}, {'colour' if channels == 3 else 'grey'}"}
    about["held out"] = ", ".join(
        [f"{name} by the source" for name in own] + [f"{name} from the training pictures" for name in shared]
    )
    if classes:
        shown = ", ".join(classes[:10]) + (", ..." if classes[10:] else "")
        about["classes"] = f"{len(classes):,} ({shown})"
    return {
        "source": settings.source,
        "settings": identity(settings),
        "spec": spec,
        "classes": list(classes),
        "class_counts": {name: values.tolist() for name, values in counts.items()},
        "splits": {
            name: {"rows": len(rows), "groups": len({groups[i] for i in rows})}
            for name, rows in chosen.items()
        },
        "about": about,
        "notes": [*pictures.notes, *by_folder, *_notes(chosen, scan, classes, list(out.values()))],
    }


def _notes(
    chosen: dict[str, np.ndarray], scan: Scan, classes: Sequence[str], unreadable: Sequence[str]
) -> list[str]:
    notes = [f"left out, unreadable: {few(unreadable, picture_reader.NAMED)}"] if unreadable else []
    if several := scan.traits[FRAMES]:
        notes.append(f"pictures of several frames, of which the first was taken: {several:,}")
    without = {name: int((scan.labels_N[rows] < 0).sum()) for name, rows in chosen.items()} if classes else {}
    notes += [f"{name} rows without a class: {count:,}" for name, count in without.items() if count]
    found = {name: [scan.digests[i] for i in rows] for name, rows in chosen.items()}
    everything = [digest for digests in found.values() for digest in digests]
    trained = set(found["train"])
    copies = len(everything) - len(set(everything))
    leaked = sum(digest in trained for name in SPLITS[1:] for digest in found[name])
    if copies:
        notes.append(f"exact copies of other pictures: {copies:,}")
    if leaked:
        notes.append(f"held-out pictures that are exact copies of training pictures: {leaked:,}")
    return notes
