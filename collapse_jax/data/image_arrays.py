"""Images that lie in arrays: scikit-learn's digits, npz archives, MNIST's IDX files, with labels and test images."""

import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from collapse_jax.config import BadInput
from collapse_jax.data import idx
from collapse_jax.data.pictures import HELD_OUT, Pictures, Plain, from_array

IMAGES, LABELS = ("x", "images", "image"), ("labels", "label", "y")
NAMES, GROUPS = ("name", "names"), ("group", "groups")


@dataclass(frozen=True)
class Part:
    """Arrays with one entry a picture; `held_out` is the split of all of them, or ""."""

    what: str
    images: np.ndarray
    labels: np.ndarray | None = None
    names: np.ndarray | None = None
    groups: np.ndarray | None = None
    held_out: str = ""


def from_parts(parts: list[Part]) -> Pictures:
    """Pictures of arrays of the same shape. Raises `BadInput`."""
    pixels = []
    for part in parts:
        try:
            pixels.append(from_array(part.images))
        except ValueError as error:
            raise BadInput(f"{part.what} {error}") from error
        if pixels[-1].shape[1:] != pixels[0].shape[1:]:
            raise BadInput(
                f"{part.what} has pictures of another shape than {parts[0].what}; give one of them"
            )
    images_NHWC = np.concatenate(pixels)
    names, groups, labels = (_joined(parts, name) for name in ("names", "groups", "labels"))
    labels_N, classes = _classes(labels, parts[0].what) if labels is not None else (None, ())
    bounds = np.cumsum([0, *(len(part.images) for part in parts)])

    def where(i: int) -> str:
        part = int(np.searchsorted(bounds, i, side="right")) - 1
        return f"{parts[part].what}, picture {i - bounds[part]}"

    return Pictures(
        count=len(images_NHWC),
        codec=Plain(images_NHWC.shape[1:]),
        read=lambda i: (images_NHWC[i].tobytes(), -1 if labels_N is None else int(labels_N[i])),
        where=where,
        classes=classes,
        held_out=[part.held_out for part in parts for _ in range(len(part.images))],
        names=None if names is None else [str(name) for name in names],
        groups=None if groups is None else [str(group) for group in groups],
    )


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
    return np.concatenate([values.reshape(-1) for values in found])


def _classes(values: np.ndarray, what: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Class [N] int32 and names of the classes; the number -1 stands for no class. Raises `BadInput`."""
    if values.dtype.kind == "f" and (values == np.rint(values)).all():
        values = values.astype(np.int64)
    if values.dtype.kind not in "biuU":
        raise BadInput(f"{what}: labels of type {values.dtype} are neither whole numbers nor names")
    none_N = values == -1 if values.dtype.kind == "i" else np.zeros(len(values), bool)
    names, class_N = np.unique(values[~none_N], return_inverse=True)
    labels_N = np.full(len(values), -1, np.int32)
    labels_N[~none_N] = class_N
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
    images_NHW = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return from_parts([Part("builtin:digits", images_NHW, digits.target)])


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
            return from_parts(_npz_parts(archive, path, key))
    except BadInput:
        raise
    except (ValueError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise BadInput(
            f"{path} is no npz archive of arrays ({' '.join(str(error).split())[:200]}); write it with np.savez"
        ) from error
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}") from error


def _npz_parts(archive: Mapping[str, np.ndarray], path: Path, key: str) -> list[Part]:
    there = list(archive)
    if key and key not in there:
        raise BadInput(f"{path} has no array {key!r}; there are {', '.join(there)}")
    splits = ["", "train", *HELD_OUT]
    forms = {
        form: split for split in splits for form in ([f"{{}}_{split}", f"{split}_{{}}"] if split else ["{}"])
    }

    def first(names: Sequence[str], form: str) -> str | None:
        return next((form.format(name) for name in names if form.format(name) in there), None)

    found = {form: image for form in forms if (image := first(IMAGES, form))}
    if key:
        found = {next((form for form in forms if found.get(form) == key), "{}"): key}
    elif "{}" in found:
        found = {"{}": found["{}"]}
    elif not any(forms[form] == "train" for form in found):
        if len(there) != 1:
            raise BadInput(
                f"{path} has {', '.join(there) or 'no array'}; say which holds the images: npz:FILE:KEY"
            )
        found = {"{}": there[0]}

    def part(form: str, image: str) -> Part:
        others = (first(names, form) for names in (LABELS, NAMES, GROUPS))
        arrays = (None if other is None or other == image else archive[other] for other in others)
        held_out = HELD_OUT.get(forms[form], "") if len(found) > 1 else ""
        return Part(f"npz:{path}:{image}", archive[image], *arrays, held_out=held_out)

    return [part(form, image) for form, image in found.items()]


def idx_files(name: str) -> Pictures:
    """`FILE_OR_DIR`: images, the labels beside them, and the test images beside training images. Raises `BadInput`."""
    path = Path(name).expanduser()
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if re.search(r"train-images.*ubyte(\.gz)?$", p.name))
        if len(found) != 1:
            raise BadInput(f"idx:{path} has {len(found)} files named *train-images*ubyte[.gz]; give the file")
        path = found[0]
    files = [(path, "")]
    for word in ("t10k", "test"):
        other = path.with_name(path.name.replace("train-images", f"{word}-images"))
        if other != path and other.is_file():
            files.append((other, "test"))
            break
    return from_parts([_idx_part(path, held_out) for path, held_out in files])


def _idx_part(path: Path, held_out: str) -> Part:
    labels = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    has_labels = labels != path and labels.is_file()
    return Part(f"idx:{path}", idx.read(path), idx.read(labels) if has_labels else None, held_out=held_out)
