"""Folders of pictures: which files are pictures, and the split and class that the folders above each stand for."""

import fnmatch
import functools
import glob
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from collapse_jax.config import BadInput
from collapse_jax.data.pictures import HELD_OUT, Encoded, Pictures, few, split_of, suffixes

ANNOTATIONS = "val_annotations.txt"  # of Tiny ImageNet: file name, class and box, between tabs
HIDDEN, LOOP = "hidden", "links to folders above them"

Folders = tuple[str, ...]


def load(name: str) -> Pictures:
    """The pictures below a folder (linked folders too, hidden ones not), or the files of a glob. Raises `BadInput`.

    A folder named train, val, test or alike says the split, where one says train; pictures of the other splits
    are held out, and those outside all of them left out. The folders that training pictures lie in are classes,
    where there are several, but for what their paths have in common; a held-out picture in another folder has no
    class, unless Tiny ImageNet's list of annotations gives it one.
    """
    root, found, notes = _listed(name)
    places, told = _placed(name, [path.relative_to(root).parts[:-1] for path in found])
    notes += told
    if out := [path for path, place in zip(found, places, strict=True) if not place.split]:
        notes.append(_left_out("outside the folders of the splits", out, root))
    paths, placed = [], []
    for path, place in zip(found, places, strict=True):
        if place.split:
            paths.append(path)
            placed.append(place)
    folders, classes = _classes(placed)
    number = {folder: i for i, folder in enumerate(classes)}
    annotations = functools.cache(_annotations)
    labels, unknown, listed = [], set[str](), 0
    for path, place, folder in zip(paths, placed, folders, strict=True):
        name = folder
        if place.split in HELD_OUT and folder not in number:
            name = next((a[path.name] for a in map(annotations, path.parents[:2]) if path.name in a), "")
            listed += name in number
        labels.append(number.get(name, -1))
        if classes and folder and labels[-1] < 0:
            unknown.add(folder)
    if listed:
        notes.append(f"held-out pictures whose class {ANNOTATIONS} says: {listed:,}")
    if unknown:
        notes.append(f"held-out folders that are no class of the training pictures: {few(sorted(unknown))}")

    def read(i: int) -> tuple[bytes, int]:
        try:
            return paths[i].read_bytes(), labels[i]
        except OSError as error:
            raise BadInput(f"{paths[i]} cannot be read: {error.strerror}") from error

    names = ["/".join((*place.folders, path.name)) for path, place in zip(paths, placed, strict=True)]
    held_out = [HELD_OUT.get(place.split or "", "") for place in placed]
    return Pictures(
        len(paths), Encoded(), read, lambda i: str(paths[i]), classes, held_out, names, notes=notes
    )


class Place(NamedTuple):
    """Where a picture belongs.

    split: None outside all of them. folders: those above it but for the one that says the split. named: that one.
    """

    split: str | None
    folders: Folders
    named: str = ""


def _place(above: Folders) -> Place:
    """By the first folder that is named after a split."""
    splits = [split_of(folder) for folder in above]
    if not any(splits):
        return Place(None, above)
    k = next(k for k, split in enumerate(splits) if split)
    return Place(splits[k], above[:k] + above[k + 1 :], above[k])


def _placed(name: str, folders: list[Folders]) -> tuple[list[Place], list[str]]:
    """The place of each picture, and what to tell of the splits. Raises `BadInput` where the names leave it open."""
    places = [_place(above) for above in folders]
    splits = {place.split for place in places if place.split}
    outside = sorted({"/".join(place.folders) for place in places if not place.split and place.folders})
    if "train" in splits and (len(splits) > 1 or not outside):
        said = sorted({f"{place.named} ({place.split})" for place in places if place.split})
        return places, [f"splits by folders: {', '.join(said)}"]
    if splits and all(place.split for place in places):
        raise BadInput(
            f"images:{name} has pictures of {', '.join(sorted(splits))} and none of train; give one folder"
        )
    # Beside other folders such a name may be a class's (trains and planes), unless it has folders of its own.
    if nested := sorted({folder for above in folders for folder in above[:-1] if split_of(folder)}):
        raise BadInput(
            f"images:{name} has {few(nested)} beside {few(outside)}; give one folder, or name all of them after "
            "splits (train, validation, test)"
        )
    return [Place("train", above) for above in folders], []


def _classes(placed: list[Place]) -> tuple[list[str], tuple[str, ...]]:
    """What of each picture's folders may be its class, and the classes, those of the training pictures."""
    training = {place.folders for place in placed if place.split == "train"} - {()}
    start = _common(training)
    rest = [folders[len(start) :][::-1] for folders in training]
    end = _common(filter(None, rest))[::-1]

    def inner(folders: Folders) -> str:
        if folders[: len(start)] == start:
            folders = folders[len(start) :]
        if end and folders[-len(end) :] == end:
            folders = folders[: -len(end)]
        return "/".join(folders)

    names = [inner(place.folders) for place in placed]
    classes = sorted({n for n, place in zip(names, placed, strict=True) if n and place.split == "train"})
    return names, tuple(classes) if len(classes) > 1 else ()


def _common(names: Iterable[Folders]) -> Folders:
    """The first folders of all of them, as far as they are the same."""
    columns = zip(*names, strict=False)
    return tuple(column[0] for column in itertools.takewhile(lambda column: len(set(column)) == 1, columns))


def _annotations(folder: Path) -> dict[str, str]:
    """File name -> class by the list in a folder; nothing where there is none."""
    try:
        text = (folder / ANNOTATIONS).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    return {line.split("\t")[0]: line.split("\t")[1] for line in text.splitlines() if "\t" in line}


def _listed(name: str) -> tuple[Path, list[Path], list[str]]:
    """(the folder above them all that was given, the pictures in name order, what was left out). Raises `BadInput`."""
    given = Path(name).expanduser()
    depth = next((i for i, part in enumerate(given.parts[:-1]) if glob.has_magic(part)), len(given.parts) - 1)
    root, pattern = Path(*given.parts[:depth]), given.parts[depth:]
    if given.is_dir():
        root, pattern = given, ("**",)
    if "**" not in pattern:
        paths = [Path(path) for path in sorted(glob.glob(str(given))) if os.path.isfile(path)]
        if not paths:
            raise BadInput(f"images:{name} matches no file; check the path (quote the pattern in the shell)")
        return root, paths, []
    try:  # without the glob module, whose ** is led round and round by links
        entries = list(_below(root, root))
    except OSError as error:
        raise BadInput(f"images:{name}: {error.filename} cannot be read: {error.strerror}") from error
    notes = [
        _left_out(why, out, root) for why in (HIDDEN, LOOP) if (out := [p for p, w in entries if w == why])
    ]
    paths = [p for p, why in entries if not why and _matches(p.relative_to(root).parts, pattern)]
    if root == given:
        others = [p for p in paths if p.suffix.lower() not in suffixes() and p.name != ANNOTATIONS]
        paths = [p for p in paths if p.suffix.lower() in suffixes()]
        if others:
            counts = sorted(Counter(p.suffix or p.name for p in others).items())
            kinds = few([f"{count:,} {kind}" for kind, count in counts])
            notes.append(f"left out, no pictures of a kind that is read: {kinds}")
    if not paths:
        raise BadInput(
            f"images:{name} has no .png, .jpg or other picture in it; give another folder or a glob"
        )
    return root, paths, notes


def _matches(parts: Folders, pattern: Folders) -> bool:
    """Whether a path matches a glob, whose ** stands for any number of folders."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[k:], pattern[1:]) for k in range(len(parts) + 1))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _left_out(why: str, paths: list[Path], root: Path) -> str:
    return f"left out, {why}: {few([str(path.relative_to(root)) for path in paths])}"


def _below(root: Path, folder: Path) -> Iterator[tuple[Path, str]]:
    """Every file below a folder in name order, and why it is none to be looked at, if so ("" if not)."""
    with os.scandir(folder) as entries:
        names = sorted((entry.name, entry.is_dir()) for entry in entries)
    for name, is_folder in names:
        path = folder / name
        if name[0] == ".":
            if is_folder or path.suffix.lower() in suffixes():
                yield path, HIDDEN
        elif not is_folder:
            yield path, ""
        elif _loops(root, path):
            yield path, LOOP
        else:
            yield from _below(root, path)


def _loops(root: Path, folder: Path) -> bool:
    """Whether links have led from the root to a folder that lies above itself."""
    parts = folder.relative_to(root).parts
    stats = [os.stat(root.joinpath(*parts[:k])) for k in range(len(parts) + 1)]
    return len({(s.st_dev, s.st_ino) for s in stats}) <= len(parts)
