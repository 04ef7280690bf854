"""TensorFlow Datasets read without TensorFlow: a dataset by name, and the rows of its splits by number."""

import re
from collections.abc import Sequence
from typing import Any

from collapse_jax.config import BadInput


def name_and_split(name: str, default: str = "train") -> tuple[str, str]:
    """`NAME[:SPLIT]`; a TFDS version such as `:1.0.0` or `:1.*.*` belongs to the name."""
    head, colon, tail = name.rpartition(":")
    return (head, tail) if colon and not re.fullmatch(r"[\d.*]+", tail) else (name, default)


def builder(name: str, data_dir: str) -> Any:
    """The TFDS builder of a dataset, prepared (downloaded if need be). Raises `BadInput`.

    data_dir: where TFDS keeps its files ("": its own default).
    """
    import tensorflow_datasets

    tfds: Any = tensorflow_datasets  # its lazy modules hide their types
    try:
        found = tfds.builder(name, data_dir=data_dir or None)
        if not found.is_prepared():
            found = tfds.builder(name, data_dir=data_dir or None, file_format="array_record")
            found.download_and_prepare()
    except Exception as error:  # TFDS raises many kinds
        raise BadInput(unreadable(f"tfds:{name}", error)) from error
    return found


def rows(builder: Any, split: str, decoders: dict[str, Any] | None = None) -> Sequence[Any]:
    """The rows of a split, dicts of its features, read when asked for. Raises `BadInput`."""
    try:
        return builder.as_data_source(split, decoders=decoders)
    except Exception as error:  # TFDS raises many kinds
        raise BadInput(unreadable(f"tfds:{builder.name} split {split!r}", error)) from error


def features(builder: Any, kind: str) -> list[str]:
    """Names of the features of a class of `tensorflow_datasets.features`, e.g. "Text"."""
    import tensorflow_datasets

    wanted = getattr(tensorflow_datasets.features, kind)
    return [name for name, feature in builder.info.features.items() if isinstance(feature, wanted)]


def unreadable(what: str, error: Exception) -> str:
    """One line about something that TFDS could not read."""
    reason = " ".join(str(error).split())[:200]
    return f"{what} cannot be read ({reason}); prepare it as array_record and give its data_dir"
