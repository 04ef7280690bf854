"""Where real documents come from: Python's own documentation, text files, TFDS, Hugging Face.

`documents("text:stories/*.txt")` and its like return non-empty strings in a fixed order.
"""

import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from collapse_jax.config import BadInput
from collapse_jax.data import columns, text_files, tfds

KINDS = (
    "builtin:python_docs", "text:FILE_DIR_OR_GLOB", "tfds:NAME[:SPLIT]", "hf:NAME[[:CONFIGURATION]:SPLIT]",
    "rows:DIR",
)  # fmt: skip

COLUMN = "config.data.column"
STRINGS = ("string", "large_string", "string_view")
BATCH = 1000  # rows of a table that are turned into strings at once


class Corpus(NamedTuple):
    """The documents of a source, none empty; `about` it (title -> words), and notes on what was left out and why."""

    texts: list[str]
    about: dict[str, str]
    notes: list[str]


def problem(source: str) -> str | None:
    """What is wrong with the spelling of a source, or None."""
    kind, _, name = source.partition(":")
    if kind not in {k.partition(":")[0] for k in KINDS} or not name:
        return f"source={source!r} is not one of {', '.join(KINDS)}"
    if kind == "builtin" and name != "python_docs":
        return f"source={source!r} is unknown; the only builtin text is builtin:python_docs"
    return None


def documents(source: str, separator: str = "<|endoftext|>", data_dir: str = "", column: str = "") -> Corpus:
    """The documents of a source, empty ones dropped.

    separator: string between the documents of a text file (see `text_files.documents`).
    data_dir: where TFDS or Hugging Face datasets keep their files ("": their own default).
    column: of a table that holds the text ("": see `columns.choose`).
    Raises `BadInput` when the source does not exist, is empty or is not UTF-8.
    """
    if wrong := problem(source):
        raise BadInput(wrong)
    kind, _, name = source.partition(":")
    if kind == "rows":
        raise BadInput(f"source={source!r} holds prepared rows, not documents")
    corpus = {
        "builtin": _python_docs,
        "text": lambda: _text(name, separator),
        "tfds": lambda: _tfds(name, data_dir, column),
        "hf": lambda: _hf(name, data_dir, column),
    }[kind]()
    texts = [text for text in corpus.texts if text.strip()]
    if not texts:
        raise BadInput(f"source={source!r} has no text in it; check the files or the separator")
    return corpus._replace(texts=texts)


def _python_docs() -> Corpus:
    from pydoc_data.topics import topics  # the reference text behind Python's help()

    return Corpus([topics[name] for name in sorted(topics)], {}, [])


def _text(name: str, separator: str) -> Corpus:
    texts, notes = text_files.documents([text_files.read(path) for path in text_files.paths(name)], separator)
    return Corpus(texts, {}, notes)


def _tfds(name: str, data_dir: str, column: str) -> Corpus:
    name, split = tfds.name_and_split(name)
    builder = tfds.builder(name, data_dir)
    column = _column(f"tfds:{name}", tfds.texts(builder), column)
    rows = tfds.rows(builder, split, tfds.undecoded(builder, column))
    return _table(f"tfds:{name}", column, (rows[i][column] for i in range(len(rows))))


def _hf(name: str, data_dir: str, column: str) -> Corpus:
    try:
        import datasets  # type: ignore[import-not-found]
    except ImportError as error:
        raise BadInput(
            f"hf:{name} needs the extra 'hf'; install it with pip install 'collapse_jax[hf]'"
        ) from error

    path, *parts = tfds.parts(name)
    configuration, split = (*parts[:-1], None)[0], parts[-1] if parts else "train"
    try:
        if len(parts) > 2:
            raise ValueError(f"{len(parts) - 2} colons too many")
        rows: Any = datasets.load_dataset(
            os.path.expanduser(path), configuration, split=split, cache_dir=data_dir or None
        )
    except Exception as error:  # network, name, configuration, split, disk
        raise BadInput(
            f"hf:{name} cannot be loaded ({_line(error)}); it is spelt hf:NAME:SPLIT, or "
            "hf:NAME:CONFIGURATION:SPLIT where there are several configurations"
        ) from error
    texts = [key for key, feature in rows.features.items() if getattr(feature, "dtype", None) in STRINGS]
    column = _column(f"hf:{name}", texts, column)
    tables = rows.select_columns([column]).with_format("arrow").iter(BATCH)
    return _table(f"hf:{name}", column, (text for table in tables for text in table[column].to_pylist()))


def _column(source: str, texts: list[str], name: str) -> str:
    column = columns.choose(source, "text", texts, columns.TEXT, name, COLUMN)
    if column is None:
        raise BadInput(f"{source} has no text column; choose a dataset with one")
    return column


def _table(source: str, column: str, values: Iterable[str | bytes | None]) -> Corpus:
    """The documents in a column of a table."""
    texts = list(_strings(source, values))
    nulls, empty = sum(text is None for text in texts), sum(text == "" for text in texts)
    notes = [
        f"rows left out because column {column!r} is {what}: {count:,}"
        for what, count in (("null", nulls), ("empty", empty))
        if count
    ]
    return Corpus([text for text in texts if text], {"column": column}, notes)


def _strings(source: str, values: Iterable[str | bytes | None]) -> Iterator[str | None]:
    for i, value in enumerate(values):
        try:
            yield value.decode("utf-8") if isinstance(value, bytes) else value
        except UnicodeDecodeError as error:
            raise BadInput(f"{source}: row {i} is not UTF-8 at byte {error.start}") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
