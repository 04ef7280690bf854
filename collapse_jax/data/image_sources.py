"""Where real images come from: scikit-learn's digits, files, npz archives, MNIST's IDX files, TFDS.

`load("images:photos")` and its like list the pictures of a source without decoding them.
"""

from typing import Any

import numpy as np

from collapse_jax.config import BadInput
from collapse_jax.data import columns, image_arrays, image_folders, tfds
from collapse_jax.data.pictures import HELD_OUT, Encoded, Pictures

KINDS = (
    "builtin:digits", "images:DIR_OR_GLOB", "npz:FILE[:KEY]", "idx:FILE_OR_DIR", "tfds:NAME[:SPLIT]", "rows:DIR",
)  # fmt: skip


def problem(source: str) -> str | None:
    """What is wrong with the spelling of a source, or None."""
    kind, _, name = source.partition(":")
    if kind not in {k.partition(":")[0] for k in KINDS} or not name:
        return f"source={source!r} is not one of {', '.join(KINDS)}"
    if kind == "builtin" and name != "digits":
        return f"source={source!r} is unknown; the only builtin images are builtin:digits"
    return None


def load(source: str, data_dir: str = "", column: str = "", label_column: str = "") -> Pictures:
    """The pictures of a source that `problem` has passed, other than rows:DIR. Raises `BadInput`.

    data_dir: where TFDS keeps its files ("": its own default). column, label_column: of a TFDS table that hold the
    pictures and their classes ("": see `columns.choose`).
    """
    kind, _, name = source.partition(":")
    return {
        "builtin": lambda: image_arrays.digits(),
        "npz": lambda: image_arrays.npz(name),
        "idx": lambda: image_arrays.idx_files(name),
        "images": lambda: image_folders.load(name),
        "tfds": lambda: _tfds(name, data_dir, column, label_column),
    }[kind]()


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
    label = columns.choose(source, "label", labels, columns.LABEL, label_column, "config.data.label_column")
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
