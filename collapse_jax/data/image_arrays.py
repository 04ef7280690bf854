"""Images that lie in arrays: scikit-learn's digits, npz archives, MNIST's IDX files, with labels and test images."""

import contextlib
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from collapse_jax.config import BadInput
from collapse_jax.data import idx
from collapse_jax.data.pictures import SPLIT_NAMES, Pictures, Plain, few, numbers, pixels, white_level

WORDS = {
    **dict.fromkeys(("x", "images", "image"), "images"),
    **dict.fromkeys(("y", "labels", "label"), "labels"),
    **dict.fromkeys(("name", "names"), "names"),
    **dict.fromkeys(("group", "groups"), "groups"),
}
"""What arrays are called in archives, and what they are here."""


@dataclass(frozen=True)
class Part:
    """Arrays with one entry a picture; `held_out` is the split of all of them, or ""."""

    what: str
    images: np.ndarray
    labels: np.ndarray | None = None
    names: np.ndarray | None = None
    groups: np.ndarray | None = None
    held_out: str = ""


def from_parts(parts: list[Part], notes: list[str]) -> Pictures:
    """Pictures of arrays of the same shape. Raises `BadInput`."""
    arrays = []
    for part in parts:
        with _named(part.what):
            arrays.append(numbers(part.images))
        if arrays[-1].shape[1:] != arrays[0].shape[1:]:
            raise BadInput(
                f"{part.what} has pictures of another shape than {parts[0].what}; give one of them"
            )
    with _named(parts[0].what):
        white = white_level(arrays)
    if 1 < white < 255 or (white == 1 and any(array.dtype.kind in "iu" for array in arrays)):
        notes = [*notes, f"grey levels: 0 is black, and {white}, the largest there is, white"]
    images_NHWC = np.concatenate([pixels(array, white) for array in arrays])
    names, groups = _joined(parts, "names"), _joined(parts, "groups")
    labels_N, classes = _labels(parts)
    bounds = np.cumsum([0, *(len(part.images) for part in parts)])

    def where(i: int) -> str:
        part = int(np.searchsorted(bounds, i, side="right")) - 1
        return f"{parts[part].what}, picture {i - bounds[part]}"

    return Pictures(
        count=len(images_NHWC),
        codec=Plain(images_NHWC.shape[1:]),
        read=lambda i: (images_NHWC[i].tobytes(), int(labels_N[i])),
        where=where,
        classes=classes,
        held_out=[part.held_out for part in parts for _ in range(len(part.images))],
        names=None if names is None else [str(name) for name in names],
        groups=None if groups is None else [str(group) for group in groups],
        notes=notes,
    )


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    """Says which array it was that could not be used."""
    try:
        yield
    except ValueError as error:
        raise BadInput(f"{what} {error}") from error


def _joined(parts: list[Part], field: str) -> np.ndarray | None:
    """One entry a picture, from all parts; None where the parts have none. Raises `BadInput`."""
    found = [getattr(part, field) for part in parts]
    if all(values is None for values in found):
        return None
    for part, values in zip(parts, found, strict=True):
        if values is None:
            raise BadInput(f"{part.what} has no {field}, unlike the other part of its source")
        if values.size != len(part.images) or len(values) != len(part.images):
            raise BadInput(
                f"{part.what} has {len(part.images):,} pictures and {field} of shape {list(values.shape)}; "
                "every picture needs one"
            )
    return np.concatenate([_text(values.reshape(-1)) for values in found])


def _text(values: np.ndarray) -> np.ndarray:
    """Byte strings, as h5py gives them, as text; other values as they are."""
    if values.dtype.kind != "S":
        return values
    return np.array([value.decode("utf-8", "backslashreplace") for value in values.tolist()], np.str_)


def _labels(parts: list[Part]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Class [N] int32 and names of the classes. Raises `BadInput`.

    The class is -1 for the labels -1 and NaN, and in held-out parts without labels.
    """
    labelled = [part.labels is not None or not part.held_out for part in parts]
    values = _joined([part for part, has in zip(parts, labelled, strict=True) if has], "labels")
    labels_N = np.full(sum(len(part.images) for part in parts), -1, np.int32)
    if values is None:
        return labels_N, ()
    what = parts[0].what
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), -1, values)
        if (odd := values[(values != np.rint(values)) | np.isinf(values)]).size:
            raise BadInput(f"{what}: the label {odd[0]:g} is neither a whole number nor a name")
        values = values.astype(np.int64)
    if values.dtype.kind not in "biuU":
        raise BadInput(f"{what}: labels of type {values.dtype} are neither whole numbers nor names")
    has_class = values != -1 if values.dtype.kind == "i" else np.ones(len(values), bool)
    names, class_N = np.unique(values[has_class], return_inverse=True)
    rows = np.flatnonzero(np.repeat(labelled, [len(part.images) for part in parts]))
    labels_N[rows[has_class]] = class_N
    return labels_N, tuple(str(name) for name in names)


def digits() -> Pictures:
    """The 1,797 scans, 8 x 8, that scikit-learn brings along. Raises `BadInput` where it is not installed."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise BadInput(
            "builtin:digits needs scikit-learn; install it with pip install scikit-learn"
        ) from error
    digits: Any = load_digits()
    # The scans count the set pixels of 4 x 4 blocks: 0 to 16.
    return from_parts([Part("builtin:digits", digits.images, digits.target)], [])


def npz(name: str) -> Pictures:
    """`FILE[:KEY]`: arrays by their usual names (x, labels, ...), with the split in them or not (x_train).

    Nothing is unpacked to disk. Raises `BadInput`.
    """
    file_name, colon, key = (name, "", "") if name.endswith(".npz") else name.rpartition(":")
    path = Path(file_name if colon else name).expanduser()
    key = key if colon else ""
    try:
        with open(path, "rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise BadInput(f"{path} is a single array; save it with np.savez")
            return from_parts(*_npz_parts(archive, path, key))
    except BadInput:
        raise
    except (ValueError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise BadInput(
            f"{path} is no npz archive of arrays ({' '.join(str(error).split())[:200]}); write it with np.savez"
        ) from error
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}") from error


def _npz_parts(archive: Mapping[str, np.ndarray], path: Path, key: str) -> tuple[list[Part], list[str]]:
    """The parts of an archive, training images first, and which arrays they are."""
    there = list(archive)
    if key and key not in there:
        raise BadInput(f"{path} has no array {key!r}; there are {', '.join(there)}")
    meanings = {name: _meaning(name) for name in there}
    if not key and ("train", "images") not in meanings.values():
        if len(there) != 1:
            raise BadInput(
                f"{path} has {', '.join(there) or 'no array'}; say which holds the images: npz:FILE:KEY"
            )
        key = there[0]
    if key:  # with the labels, names and groups of its split
        beside = {n: ("train", role) for n, (split, role) in meanings.items() if split == meanings[key][0]}
        meanings = {n: m for n, m in beside.items() if m[1] != "images"} | {key: ("train", "images")}
    parts: dict[str, dict[str, str]] = {split: {} for split in ("train", "validation", "test")}
    for name, (split, role) in meanings.items():
        if role in parts[split]:
            advice = "say which: npz:FILE:KEY" if role == "images" else "leave one of them out"
            raise BadInput(f"{path} has {role} in {parts[split][role]} and {name}; {advice}")
        if role:
            parts[split][role] = name
    parts = {split: names for split, names in parts.items() if "images" in names}
    used = [name for names in parts.values() for name in names.values()]
    notes = [f"arrays: {', '.join(used)}"]
    if out := [name for name in there if name not in used]:
        notes[0] += f"; left out: {few(out)}"

    def part(split: str, names: Mapping[str, str]) -> Part:
        arrays = {role: archive[name] for role, name in names.items()}
        held_out = "" if split == "train" else split
        return Part(f"npz:{path}:{names['images']}", **arrays, held_out=held_out)

    return [part(split, names) for split, names in parts.items()], notes


def _meaning(name: str) -> tuple[str, str]:
    """The split and the word of `WORDS` that an array's name such as x, x_train or train_images is made of.

    Without a split it is that of training images, and "" stands for a word that is none of them.
    """
    first, _, second = name.lower().partition("_")
    for word, split in ((first, second), (second, first)):
        if word in WORDS and (not split or split in SPLIT_NAMES):
            return SPLIT_NAMES.get(split, "train"), WORDS[word]
    return "train", ""


def idx_files(name: str) -> Pictures:
    """`FILE_OR_DIR`: images, the labels beside them, and the test images beside training images. Raises `BadInput`."""
    path = Path(name).expanduser()
    if path.is_dir():
        names = {_plain(p.name) for p in path.iterdir() if re.search(r"train-images.*ubyte(\.gz)?$", p.name)}
        if len(names) != 1:
            raise BadInput(f"idx:{path} has {len(names)} files named *train-images*ubyte[.gz]; give the file")
        path = _beside(path / "any", names.pop()) or path
    if not path.exists():
        path = _beside(path, path.name) or path
    held_out = [
        _beside(path, path.name.replace("train-images", f"{word}-images"))
        for word in ("t10k", "test")
        if "train-images" in path.name
    ]
    parts, notes = [], []
    for other in [path, *filter(None, held_out)][:2]:
        name = other.name.replace("images", "labels").replace("idx3", "idx1")
        labels = _beside(other, name) if "images" in other.name else None
        if labels is None:
            notes.append(f"{other.name} has no labels beside it")
        array, classes = idx.read(other), None if labels is None else idx.read(labels)
        parts.append(Part(f"idx:{other}", array, classes, held_out="test" if parts else ""))
    return from_parts(parts, notes)


def _beside(path: Path, name: str) -> Path | None:
    """The file of this name in the same folder, gzipped or not, whether a dot or a hyphen stands before its idx."""
    return min((p for p in path.parent.glob("*") if _plain(p.name) == _plain(name)), default=None)


def _plain(name: str) -> str:
    return name.removesuffix(".gz").replace(".idx", "-idx")
