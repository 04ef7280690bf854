"""Where real images come from: scikit-learn's digits, files, npz archives, MNIST's IDX files, TFDS.

`load("images:photos")` and its like list the pictures of a source without decoding them.
"""

import glob
import os
from pathlib import Path
from typing import Any

import numpy as np

from collapse_jax.config import BadInput
from collapse_jax.data import columns, image_arrays, tfds
from collapse_jax.data.pictures import HELD_OUT, Encoded, Pictures

KINDS = (
    "builtin:digits", "images:DIR_OR_GLOB", "npz:FILE[:KEY]", "idx:FILE_OR_DIR", "tfds:NAME[:SPLIT]", "rows:DIR",
)  # fmt: skip

SUFFIXES = (".png", ".jpg", ".jpeg")


def problem(source: str) -> str | None:
    """What is wrong with the spelling of a source, or None."""
    kind, _, name = source.partition(":")
    if kind not in {k.partition(":")[0] for k in KINDS} or not name:
        return f"source={source!r} is not one of {', '.join(KINDS)}"
    if kind == "builtin" and name != "digits":
        return f"source={source!r} is unknown; the only builtin images are builtin:digits"
    return None


def load(source: str, data_dir: str = "", column: str = "", label: str = "") -> Pictures:
    """The pictures of a source that `problem` has passed, other than rows:DIR. Raises `BadInput`.

    data_dir: where TFDS keeps its files ("": its own default). column, label: of a TFDS table that hold the pictures
    and their classes ("": see `columns.choose`).
    """
    kind, _, name = source.partition(":")
    return {
        "builtin": lambda: image_arrays.digits(),
        "npz": lambda: image_arrays.npz(name),
        "idx": lambda: image_arrays.idx_files(name),
        "images": lambda: _files(name),
        "tfds": lambda: _tfds(name, data_dir, column, label),
    }[kind]()


def _files(name: str) -> Pictures:
    """PNG and JPEG files below a folder, or the files of a glob.

    A first folder named train, val, valid, validation or test says the split where there is one named train;
    pictures in several folders below that have these as classes.
    """
    root, found = _listed(name)
    relative = [path.relative_to(root).parts for path in found]
    splits = {parts[0] for parts in relative}
    held_out = [""] * len(found)
    if "train" in splits and splits <= {"train", *HELD_OUT} and all(len(parts) > 1 for parts in relative):
        held_out = [HELD_OUT.get(parts[0], "") for parts in relative]
        relative = [parts[1:] for parts in relative]
    folders = ["/".join(parts[:-1]) for parts in relative]
    classes = tuple(sorted(set(folders))) if len(set(folders)) > 1 and all(folders) else ()
    number = {folder: i for i, folder in enumerate(classes)}

    def read(i: int) -> tuple[bytes, int]:
        try:
            return found[i].read_bytes(), number.get(folders[i], -1)
        except OSError as error:
            raise BadInput(f"{found[i]} cannot be read: {error.strerror}") from error

    names = ["/".join(parts) for parts in relative]
    return Pictures(len(found), Encoded(), read, lambda i: str(found[i]), classes, held_out, names)


def _listed(name: str) -> tuple[Path, list[Path]]:
    """(the folder above them all that was given, the files in name order). Raises `BadInput`."""
    given = Path(name).expanduser()
    if given.is_dir():
        walk = ((Path(folder), files) for folder, _, files in os.walk(given))
        found = [f / n for f, names in walk for n in names if n[0] != "." and n.lower().endswith(SUFFIXES)]
        if not found:
            raise BadInput(
                f"images:{name} has no {', '.join(SUFFIXES)} file in it; give another folder or a glob"
            )
        return given, sorted(found)
    found = sorted(Path(f) for f in glob.glob(str(given), recursive=True) if os.path.isfile(f))
    if not found:
        raise BadInput(f"images:{name} matches no file; check the path (quote the pattern in the shell)")
    *folders, _ = given.parts
    depth = next((i for i, folder in enumerate(folders) if glob.has_magic(folder)), len(folders))
    return Path(*folders[:depth]), found


def _tfds(name: str, data_dir: str, column: str, label_column: str) -> Pictures:
    """The split that is named, else all of train with the validation and test splits that the dataset has."""
    import tensorflow_datasets

    decode: Any = tensorflow_datasets.decode
    name, split = tfds.name_and_split(name, "")
    builder = tfds.builder(name, data_dir)
    source, images, labels = (
        f"tfds:{name}",
        tfds.features(builder, "Image"),
        tfds.features(builder, "ClassLabel"),
    )
    image = columns.choose(source, "image", images, columns.IMAGE, column, "config.data.column")
    label = columns.choose(source, "label", labels, columns.LABEL, label_column, "config.data.label")
    if image is None:
        raise BadInput(f"tfds:{name} has no image feature; choose a dataset with one")
    if builder.info.features[image].np_dtype not in (np.uint8, np.uint16):
        raise BadInput(
            f"tfds:{name} has images of {builder.info.features[image].np_dtype}; choose one of whole numbers"
        )
    named = [split] if split else ["train", *(s for s in HELD_OUT if s in builder.info.splits)]
    parts = [(s, tfds.rows(builder, s, {image: decode.SkipDecoding()})) for s in named]
    bounds = np.cumsum([0, *(len(rows) for _, rows in parts)])

    def place(i: int) -> tuple[str, Any, int]:
        part = int(np.searchsorted(bounds, i, side="right")) - 1
        return *parts[part], i - int(bounds[part])

    def read(i: int) -> tuple[bytes, int]:
        _, rows, row = place(i)
        try:
            found = rows[row]
        except Exception as error:  # TFDS raises many kinds
            raise BadInput(tfds.unreadable(where(i), error)) from error
        return found[image], -1 if label is None else int(found[label])

    def where(i: int) -> str:
        split, _, row = place(i)
        return f"tfds:{name} split {split!r}, row {row}"

    classes = () if label is None else tuple(builder.info.features[label].names)
    held_out = [HELD_OUT.get(s, "") if len(parts) > 1 else "" for s, rows in parts for _ in range(len(rows))]
    taken = {"columns": f"{image} (pictures), {label or 'none'} (classes)"}
    return Pictures(int(bounds[-1]), Encoded(), read, where, classes, held_out, about=taken)
