"""Where real documents come from: Python's own documentation, text files, TFDS, Hugging Face.

`documents("text:stories/*.txt")` and its like return a list of non-empty strings in a fixed order.
"""

import glob
import os
from collections.abc import Iterable, Iterator
from typing import Any

from collapse_jax.config import BadInput
from collapse_jax.data import tfds

KINDS = ("builtin:python_docs", "text:GLOB", "tfds:NAME[:SPLIT]", "hf:NAME[:SPLIT]", "rows:DIR")


def problem(source: str) -> str | None:
    """What is wrong with the spelling of a source, or None."""
    kind, _, name = source.partition(":")
    if kind not in {k.partition(":")[0] for k in KINDS} or not name:
        return f"source={source!r} is not one of {', '.join(KINDS)}"
    if kind == "builtin" and name != "python_docs":
        return f"source={source!r} is unknown; the only builtin text is builtin:python_docs"
    return None


def documents(source: str, separator: str = "<|endoftext|>", data_dir: str = "") -> list[str]:
    """The documents of a source, empty ones dropped.

    separator: string between the documents of a text file; a file without it is one document.
    data_dir: where TFDS or Hugging Face datasets keep their files ("": their own default).
    Raises `BadInput` when the source does not exist, is empty or is not UTF-8.
    """
    if wrong := problem(source):
        raise BadInput(wrong)
    kind, _, name = source.partition(":")
    if kind == "rows":
        raise BadInput(f"source={source!r} holds prepared rows, not documents")
    found = {
        "builtin": _python_docs,
        "text": lambda: list(_text(name, separator)),
        "tfds": lambda: list(_tfds(name, data_dir)),
        "hf": lambda: list(_hf(name, data_dir)),
    }[kind]()
    kept = [text for text in found if text.strip()]
    if not kept:
        raise BadInput(f"source={source!r} has no text in it; check the files or the separator")
    return kept


def _python_docs() -> list[str]:
    from pydoc_data.topics import topics  # the reference text behind Python's help()

    return [topics[name] for name in sorted(topics)]


def _text(pattern: str, separator: str) -> Iterator[str]:
    files = sorted(f for f in glob.glob(os.path.expanduser(pattern), recursive=True) if os.path.isfile(f))
    if not files:
        raise BadInput(f"text:{pattern} matches no file; check the path (quote the pattern in the shell)")
    for path in files:
        text = _read(path)
        if separator and separator in text:
            # The line breaks around a separator belong to the file, not to its documents.
            yield from (document.strip() for document in text.split(separator))
        else:
            yield text


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            raw = file.read()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{path} is not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start}; "
            "convert it (e.g. with iconv)"
        ) from error


def _tfds(name: str, data_dir: str) -> Iterator[str]:
    name, split = tfds.name_and_split(name)
    found = tfds.builder(name, data_dir)
    rows = tfds.rows(found, split)
    key = _text_key(f"tfds:{name}", tfds.features(found, "Text"))
    return _strings(rows, key, f"tfds:{name}")


def _hf(name: str, data_dir: str) -> Iterator[str]:
    try:
        import datasets  # type: ignore[import-not-found]
    except ImportError as error:
        raise BadInput(
            f"hf:{name} needs the extra 'hf'; install it with pip install 'collapse_jax[hf]'"
        ) from error

    name, split = tfds.name_and_split(name)
    try:
        rows = datasets.load_dataset(name, split=split, cache_dir=data_dir or None)
    except Exception as error:  # network, name, split, disk
        raise BadInput(f"hf:{name} split {split!r} cannot be loaded ({_line(error)})") from error
    texts = [key for key, feature in rows.features.items() if getattr(feature, "dtype", None) == "string"]
    key = _text_key(f"hf:{name}", texts)
    return _strings(rows, key, f"hf:{name}")


def _text_key(source: str, texts: list[str]) -> str:
    if not texts:
        raise BadInput(f"{source} has no text feature; choose a dataset with one")
    return "text" if "text" in texts else texts[0]


def _strings(rows: Iterable[Any], key: str, source: str) -> Iterator[str]:
    for i, row in enumerate(rows):
        try:
            yield row[key].decode("utf-8") if isinstance(row[key], bytes) else row[key]
        except UnicodeDecodeError as error:
            raise BadInput(f"{source}: row {i} is not UTF-8 at byte {error.start}") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
