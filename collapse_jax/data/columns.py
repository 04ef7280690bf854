"""Which column of a table is read: the one that a setting names, else one of a usual name, else the only one."""

from collections.abc import Iterable, Sequence

from collapse_jax.config import BadInput

TEXT = ("text", "content", "document")
IMAGE = ("image",)
LABEL = ("label",)


def choose(
    source: str, what: str, columns: Iterable[str], usual: Sequence[str], name: str, setting: str
) -> str | None:
    """The column of a source to read, None where it has none of this kind; the same in every process.

    what: the kind of column, e.g. "text". columns: those of this kind, in any order. usual: names that say what
    a column holds, the first of them that is there is taken. name: the column that the setting `setting` names
    ("": none). Raises `BadInput`, which lists the columns, where the name is not there or the choice is open.
    """
    there = sorted(columns)
    listed = ", ".join(there) or "none"
    if name:
        if name not in there:
            raise BadInput(f"{setting}={name!r} is no {what} column of {source}; those are: {listed}")
        return name
    if taken := next((column for column in usual if column in there), there[0] if len(there) == 1 else None):
        return taken
    if there:
        raise BadInput(f"{source} has several {what} columns ({listed}); name one with {setting}")
    return None
