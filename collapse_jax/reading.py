"""How nested mappings become frozen settings: every value is judged in one place, every problem gets one line."""

import dataclasses
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from collapse_jax.spelling import hint, likely

MOST = 2**31 - 1  # of any whole number: rows and steps are counted in 32 bits on devices

LONGEST = 200  # letters of a name, which stands in titles and margins of figures


@dataclasses.dataclass(frozen=True)
class Missing:
    """Stands in a config where a dotted name led nowhere, for `resolve` to refuse; beyond: the rest of the name."""

    beyond: str


def home(text: str) -> str:
    """`~/x` and `kind:~/x` with the home folder in place of the tilde."""
    return re.sub(r"^((?:\w+:)?)(~[^/]*)", lambda m: m[1] + os.path.expanduser(m[2]), text)


def plain(value: Any, only_identity: bool = False) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = (
            f for f in dataclasses.fields(value) if f.metadata.get("identity", True) or not only_identity
        )
        return {f.name: plain(getattr(value, f.name), only_identity) for f in fields}
    if isinstance(value, Mapping):
        return {k: plain(v, only_identity) for k, v in value.items()}
    if only_identity and isinstance(value, tuple | list):
        return [plain(v, only_identity) for v in value]
    return value


def name_problem(name: str) -> str:
    """Why an arm or a panel cannot be called so, or nothing."""
    good = name and "/" not in name and len(name) <= LONGEST
    return "" if good else f"must be a name without '/' of at most {LONGEST} letters"


def names(like: Any, given: Mapping[str, Any], where: str) -> Iterator[str]:
    """The dotted names of the settings of `like` that hold a value, those of what `given` names included."""
    for f in dataclasses.fields(like):
        below, here = given.get(f.name), f"{where}.{f.name}"
        if "each" in f.metadata and isinstance(below, Mapping):
            for name in below:
                yield from names(f.metadata["each"](), {}, f"{here}.{name}")
        elif dataclasses.is_dataclass(getattr(like, f.name)):
            yield from names(getattr(like, f.name), below if isinstance(below, Mapping) else {}, here)
        else:
            yield here


class Reading:
    """One reading of a config: what is wrong with it, and the dotted names that there are."""

    def __init__(self, names: Sequence[str]):
        self.problems: list[str] = []
        self.names = names

    def settings(self, like: Any, given: Any, where: str) -> Any:
        """`like` changed by the mapping (or settings of its class) `given`."""
        given = plain(given) if isinstance(given, type(like)) else given
        fields = {f.name: f for f in dataclasses.fields(like)}
        if not isinstance(given, Mapping):
            return self._refuse(like, f"{where}={shown(given)} must be a mapping of {', '.join(fields)}")
        before = len(self.problems)
        self._unknown(given, fields, where)
        values = {
            name: self._field(given[name], getattr(like, name), field.metadata, f"{where}.{name}")
            for name, field in fields.items()
            if name in given
        }
        if len(self.problems) > before:
            return like
        settings = dataclasses.replace(like, **values)
        check = getattr(settings, "problems", None)
        self.problems += [f"{where}: {line}" for line in check()] if check is not None else []
        return settings

    def _refuse(self, value: Any, line: str) -> Any:
        self.problems.append(line)
        return value

    def _unknown(self, given: Mapping[str, Any], fields: Mapping[str, Any], where: str) -> None:
        """A line for every name that is not a setting, with those it may stand for."""
        unknown = sorted({str(name) for name in given} - set(fields))
        for name in unknown:
            leaves = {path.rpartition(".")[2]: path for path in self.names}
            near = (
                [path for path in self.names if path.endswith(f".{name}")]
                or [f"{where}.{meant}" for meant in likely(name, fields)]
                or [leaves[meant] for meant in likely(name, leaves)]
            )
            there = f" (there are {', '.join(fields)})" if name == unknown[-1] else ""
            self.problems.append(f"{where}.{name} is not a setting{hint(near)}{there}")

    def _field(self, value: Any, default: Any, limits: Mapping[str, Any], where: str) -> Any:
        if isinstance(value, Missing):
            return self._refuse(value, f"{where} is one value and has no {value.beyond!r}")
        if "each" in limits:
            return self._each(value, limits["each"], where)
        if dataclasses.is_dataclass(default):
            return self.settings(default, value, where)
        value = value.tolist() if hasattr(value, "tolist") else value  # scalars and arrays of NumPy and JAX
        if isinstance(default, tuple):
            return self._entries(value, limits, where)
        if isinstance(default, bool) or isinstance(value, bool):
            good = isinstance(value, bool) and (default is None or isinstance(default, bool))
            return value if good else self._refuse(value, f"{where}={shown(value)} must be {_kind(default)}")
        if isinstance(default, int | float):
            return self._number(value, default, limits, where)
        return self._text(value, limits, where) if isinstance(default, str) else value

    def _each(self, value: Any, kind: type, where: str) -> Any:
        """Settings of one class by name; names may be numbers."""
        if not isinstance(value, Mapping):
            form = "a mapping from names to settings"
            return self._refuse(value, f"{where}={shown(value)} must be {form}, e.g. {{'a name': {{...}}}}")
        for name, below in value.items():
            if isinstance(below, Missing):
                there = [str(n) for n, other in value.items() if not isinstance(other, Missing)]
                near = [f"{where}.{n}" for n in likely(str(name), there)]
                self.problems.append(
                    f"{where}.{name} is not there{hint(near)} (there are {', '.join(there)})"
                )
        if len({str(name) for name in value}) < len(value):
            self.problems.append(f"{where} names one thing twice, as a number and as a word")
        for name in filter(name_problem, map(str, value)):
            self.problems.append(f"{where}: {shown(name)} {name_problem(name)}")
        return {
            str(name): self.settings(kind(), below, f"{where}.{name}")
            for name, below in value.items()
            if not isinstance(below, Missing)
        }

    def _entries(self, value: Any, limits: Mapping[str, Any], where: str) -> Any:
        if isinstance(value, list | tuple):
            return _tuple(value)
        words = tuple(word.strip() for word in value.split(",")) if isinstance(value, str) else (value,)
        form = limits.get("form", f"a tuple, e.g. {shown(words)}")
        return self._refuse(value, f"{where}={shown(value)} must be {form}")

    def _text(self, value: Any, limits: Mapping[str, Any], where: str) -> Any:
        if not isinstance(value, str):
            return self._refuse(value, f"{where}={shown(value)} must be a string")
        if value not in limits.get("among", (value,)):
            near, names = hint(likely(value, limits["among"])), ", ".join(limits["among"])
            return self._refuse(value, f"{where}={shown(value)} is not one of {names}{near}")
        return home(value) if "path" in limits else value

    def _number(self, value: Any, default: Any, limits: Mapping[str, Any], where: str) -> Any:
        whole = isinstance(default, int)
        low, high = limits.get("low", -math.inf), limits.get("high", math.inf)
        if not isinstance(value, int if whole else int | float):
            return self._refuse(value, f"{where}={shown(value)} must be {_kind(default)}")
        try:
            value = value if whole else float(value)
        except OverflowError:
            value = math.inf
        if not (whole or math.isfinite(value)):
            return self._refuse(value, f"{where}={value} must be finite")
        if not low <= value <= high:
            span = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
            if whole:
                span = f"at least {low}" if high == MOST >= value else f"between {low} and {high}"
            return self._refuse(value, f"{where}={shown(value)} must be {span}")
        return value


def shown(value: Any) -> str:
    """The value as Python writes it, cut where that is long."""
    try:
        written = repr(value)
    except Exception:  # a number of more digits than Python writes, or a class of the user's
        written = f"a {type(value).__name__}"
    return written if len(written) <= 80 else f"{written[:60]}...{written[-15:]}"


def _kind(default: Any) -> str:
    if isinstance(default, bool):
        return "True or False"
    return (
        "a whole number"
        if isinstance(default, int)
        else "a number"
        if isinstance(default, float)
        else "a string"
    )


def _tuple(value: Any) -> Any:
    """Lists, and arrays of NumPy and JAX, as tuples of Python's own numbers, at any depth."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return tuple(_tuple(v) for v in value) if isinstance(value, list | tuple) else value
