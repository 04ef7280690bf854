"""Settings: a ConfigDict at the door, frozen dataclasses inside, one clear line for every bad value.

A settings class is a frozen dataclass whose fields are declared with `number`, `choice`, `text` or a plain
default; the bounds stand beside the default. `template` turns one into a ConfigDict for a config file to
edit, `resolve` turns the edited ConfigDict back and reports every problem at once, `identity` gives what
of it determines results (and so enters the recipe of a generation).
"""

import dataclasses
import importlib.util
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags


class BadInput(ValueError):
    """What the user gave cannot work; the message is one line saying what, where and what to do."""


def number(default: Any, low: float = -math.inf, high: float = math.inf, identity: bool = True) -> Any:
    """A field holding an int or float (the type of `default`) in [low, high]."""
    return dataclasses.field(default=default, metadata={"low": low, "high": high, "identity": identity})


def choice(default: str, among: Sequence[str], identity: bool = True) -> Any:
    """A field holding one of the names in `among`."""
    return dataclasses.field(default=default, metadata={"among": tuple(among), "identity": identity})


def text(default: str = "", identity: bool = True) -> Any:
    """A field holding any string."""
    return dataclasses.field(default=default, metadata={"identity": identity})


def template(settings: Any) -> Any:
    """A ConfigDict with the fields and values of a settings instance (nested instances and dicts too)."""
    return ConfigDict(_plain(settings))


def _plain(value: Any, only_identity: bool = False) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = (
            f for f in dataclasses.fields(value) if f.metadata.get("identity", True) or not only_identity
        )
        return {f.name: _plain(getattr(value, f.name), only_identity) for f in fields}
    if isinstance(value, Mapping):
        return {k: _plain(v, only_identity) for k, v in value.items()}
    if only_identity and isinstance(value, tuple | list):
        return [_plain(v, only_identity) for v in value]
    return value


def identity(settings: Any) -> dict[str, Any]:
    """The JSON-able part of a settings instance that determines results."""
    return _plain(settings, only_identity=True)


def each(kind: type, identity: bool = True) -> Any:
    """A field holding a mapping from names to settings of one class."""
    return dataclasses.field(default_factory=dict, metadata={"each": kind, "identity": identity})


def resolve(like: Any, given: Mapping[str, Any], where: str = "config") -> Any:
    """Settings of the class (or as the instance) `like`, changed by a nested mapping or ConfigDict.

    Raises `BadInput` naming every problem at once.
    """
    settings, problems = _build(like() if isinstance(like, type) else like, given, where)
    if problems:
        raise BadInput("; ".join(problems))
    return settings


def _build(like: Any, given: Mapping[str, Any], where: str) -> tuple[Any, list[str]]:
    given = given.to_dict() if isinstance(given, ConfigDict) else given
    known = {f.name: f for f in dataclasses.fields(like)}
    problems = [
        f"{where}.{name} is not a setting (there are {', '.join(known)})"
        for name in sorted(set(given) - set(known))
    ]
    values = {}
    for name in (n for n in known if n in given):
        default, limits, here = getattr(like, name), known[name].metadata, f"{where}.{name}"
        below: list[str] = []
        if "each" in limits and isinstance(given[name], Mapping):
            built = {k: _build(limits["each"](), v, f"{here}.{k}") for k, v in given[name].items()}
            values[name] = {k: settings for k, (settings, _) in built.items()}
            below = [line for _, lines in built.values() for line in lines]
        elif dataclasses.is_dataclass(default) and isinstance(given[name], Mapping):
            values[name], below = _build(default, given[name], here)
        else:
            values[name] = _value(given[name], default, limits, here, below)
        problems += below
    if problems:
        return like, problems
    settings = dataclasses.replace(like, **values)
    check = getattr(settings, "problems", None)
    return settings, [f"{where}: {line}" for line in check()] if check is not None else []


def _value(value: Any, default: Any, limits: Mapping[str, Any], where: str, problems: list[str]) -> Any:
    if isinstance(default, tuple) and isinstance(value, list | tuple):
        return _tuple(value)
    if isinstance(default, bool) or isinstance(value, bool):
        if not (isinstance(value, bool) and (default is None or isinstance(default, bool))):
            problems.append(f"{where}={value!r} must be {_kind(default)}")
        return value
    if isinstance(default, int | float):
        return _number(value, default, limits, where, problems)
    if isinstance(default, str):
        if not isinstance(value, str):
            problems.append(f"{where}={value!r} must be a string")
        elif "among" in limits and value not in limits["among"]:
            problems.append(f"{where}={value!r} is not one of {', '.join(limits['among'])}")
    return value


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


def _number(value: Any, default: Any, limits: Mapping[str, Any], where: str, problems: list[str]) -> Any:
    whole = isinstance(default, int)
    if not isinstance(value, int if whole else int | float):
        problems.append(f"{where}={value!r} must be {_kind(default)}")
    elif not math.isfinite(value):
        problems.append(f"{where}={value} must be finite")
    elif not limits.get("low", -math.inf) <= value <= limits.get("high", math.inf):
        low, high = limits.get("low", -math.inf), limits.get("high", math.inf)
        span = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        problems.append(f"{where}={value} must be {span}")
    else:
        return value if whole else float(value)
    return value


def _tuple(value: Any) -> Any:
    return tuple(_tuple(v) for v in value) if isinstance(value, list | tuple) else value


def load(path: str, overrides: Sequence[str] = ()) -> Any:
    """The ConfigDict of `path[:argument]` with `--config.key=value` overrides. Raises `BadInput`."""
    file, _, argument = path.partition(":")
    made = _module(file).get_config(*([argument] if argument else []))
    values, argv = flags.FlagValues(), ["collapse", *overrides]
    try:
        config_flags.DEFINE_config_dict("config", made, lock_config=True, flag_values=values, sys_argv=argv)
        left = values(argv)[1:]
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadInput(f"config {path}: {' '.join(str(error).split())}") from error
    if left:
        raise BadInput(f"stray argument {left[0]!r}; settings are given as --config.KEY=VALUE")
    return values.config


def sweep(path: str) -> list[dict[str, Any]]:
    """The points of `sweep()` in a config file, dicts of dotted overrides; none where there is no sweep."""
    return list(getattr(_module(path.partition(":")[0]), "sweep", list)())


def _module(file: str) -> ModuleType:
    """The Python file as a module. Raises `BadInput`."""
    if not Path(file).is_file():
        raise BadInput(f"config file {file!r} does not exist; give --config=PATH.py")
    spec = importlib.util.spec_from_file_location(f"collapse_jax_config_{Path(file).stem}", file)
    if spec is None or spec.loader is None:
        raise BadInput(f"config file {file!r} is not Python; give --config=PATH.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise BadInput(f"config file {file} failed: {type(error).__name__}: {error}") from error
    if not hasattr(module, "get_config"):
        raise BadInput(f"config file {file} has no get_config(); write one that returns a ConfigDict")
    return module


def product(**axes: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Every combination of the axes; `model__width=(1, 2)` names the setting `model.width`."""
    names = [name.replace("__", ".") for name in axes]
    for values in itertools.product(*axes.values()):
        yield dict(zip(names, values, strict=True))
