"""TensorFlow Datasets read without TensorFlow: a dataset by name, and the rows of its splits by number."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from collapse_jax.config import BadInput

EXTRA = ("importlib_resources", "pandas", "six")  # what the extra 'tfds' installs


def parts(name: str) -> list[str]:
    """`A:B[:50%]` at its colons, but for those inside the brackets of a slice."""
    return re.split(r":(?![^\[\]]*\])", name)


def name_and_split(name: str, default: str = "train") -> tuple[str, str]:
    """`NAME[:SPLIT]`; a TFDS version such as `:1.0.0` or `:1.*.*` belongs to the name, `SPLIT` may be sliced."""
    *head, tail = parts(name)
    return (":".join(head), tail) if head and not re.fullmatch(r"[\d.*]+", tail) else (name, default)


def builder(name: str, data_dir: str) -> Any:
    """The TFDS builder of a dataset, prepared (downloaded if need be). Raises `BadInput`.

    data_dir: where TFDS keeps its files ("": its own default).
    """
    import tensorflow_datasets

    tfds: Any = tensorflow_datasets  # its lazy modules hide their types
    try:
        made = tfds.builder(name, data_dir=data_dir or None)
        if not made.is_prepared():
            made = tfds.builder(name, data_dir=data_dir or None, file_format="array_record")
            made.download_and_prepare()
    except Exception as error:  # TFDS raises many kinds
        raise BadInput(unreadable(f"tfds:{name}", error)) from error
    return made


def rows(builder: Any, split: str, decoders: dict[str, Any] | None = None) -> Sequence[Any]:
    """The rows of a split, dicts of its features, read when asked for. Raises `BadInput`."""
    try:
        return builder.as_data_source(split, decoders=decoders)
    except Exception as error:  # TFDS raises many kinds
        raise BadInput(unreadable(f"tfds:{builder.name} split {split!r}", error)) from error


def features(builder: Any, kind: str) -> list[str]:
    """Names of the features of a class of `tensorflow_datasets.features`, e.g. "Image", in order of name."""
    import tensorflow_datasets

    wanted = getattr(tensorflow_datasets.features, kind)
    return sorted(name for name, feature in builder.info.features.items() if isinstance(feature, wanted))


def texts(builder: Any) -> list[str]:
    """Names of the features that hold one string each, in order of name."""
    return sorted(
        name
        for name, feature in builder.info.features.items()
        if feature.shape == () and np.dtype(feature.np_dtype).kind == "O"
    )


def undecoded(builder: Any, wanted: str) -> dict[str, Any]:
    """Decoders that leave the pictures and sounds beside a wanted feature as the bytes they are."""
    import tensorflow_datasets

    skip: Any = tensorflow_datasets.decode  # lazy modules hide their types
    heavy = [name for kind in ("Image", "Video", "Audio") for name in features(builder, kind)]
    return {name: skip.SkipDecoding() for name in heavy if name != wanted}


def unreadable(what: str, error: BaseException) -> str:
    """One line about something that TFDS could not read."""
    missing = next((e.name for e in _chain(error) if isinstance(e, ModuleNotFoundError) and e.name), None)
    if missing is not None:
        package = "'collapse_jax[tfds]'" if missing.partition(".")[0] in EXTRA else missing.partition(".")[0]
        return f"{what} needs the Python module {missing}; pip install {package}"
    reason = " ".join(str(error).partition("Available datasets:")[0].split())[:200]
    return f"{what} cannot be read ({reason}); prepare it as array_record and give its data_dir"


def _chain(error: BaseException | None) -> Iterable[BaseException]:
    """An error and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
