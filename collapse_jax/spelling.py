"""What was probably meant by a misspelt name."""

from collections.abc import Iterable
from difflib import get_close_matches


def likely(word: str, names: Iterable[str]) -> list[str]:
    """The names that are a few letters off, nearest first, else those whose words begin with the letters of `word`."""
    names = list(names)
    return get_close_matches(word, names, 3, 0.6) or [
        name for name in names if word and "".join(part[:1] for part in name.split("_")) == word
    ]


def hint(names: Iterable[str]) -> str:
    """` (did you mean a or b?)`; nothing where there are none."""
    few = list(dict.fromkeys(names))[:3]
    return f" (did you mean {' or '.join(few)}?)" if few else ""
