"""Settings: a ConfigDict at the door, frozen dataclasses inside, one clear line for every bad value.

A settings class is a frozen dataclass whose fields are declared with `number`, `choice`, `text`, `path` or a plain
default; the bounds stand beside the default. `template` turns one into a ConfigDict for a config file to
edit, `resolve` turns the edited ConfigDict back and reports every problem at once, `identity` gives what
of it determines results (and so enters the recipe of a generation).
"""

import ast
import contextlib
import dataclasses
import importlib.util
import inspect
import itertools
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict
from ml_collections.config_dict import FieldReference, RequiredValueError

from collapse_jax.reading import MOST, Missing, Reading, home, names, plain

POINTS = 100_000  # of a sweep at most
POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class BadInput(ValueError):
    """What the user gave cannot work; the message is one line saying what, where and what to do."""

    def __str__(self) -> str:
        return " ".join(line.strip() for line in super().__str__().splitlines())


class Door(ConfigDict):
    """A ConfigDict that takes any name and any value, so that `resolve` is the one judge of both."""

    def __init__(
        self,
        initial_dictionary: Any = None,
        type_safe: bool = False,
        allow_dotted_keys: bool = True,
        **options: Any,
    ):
        super().__init__(initial_dictionary, type_safe, allow_dotted_keys=allow_dotted_keys, **options)


def number(default: Any, low: float = -math.inf, high: float = math.inf, identity: bool = True) -> Any:
    """A field holding an int or float (the type of `default`) in [low, high]."""
    high = min(high, MOST) if isinstance(default, int) else high
    return dataclasses.field(default=default, metadata={"low": low, "high": high, "identity": identity})


def choice(default: str, among: Sequence[str], identity: bool = True) -> Any:
    """A field holding one of the names in `among`."""
    return dataclasses.field(default=default, metadata={"among": tuple(among), "identity": identity})


def text(default: str = "", identity: bool = True) -> Any:
    """A field holding any string."""
    return dataclasses.field(default=default, metadata={"identity": identity})


def path(default: str = "", identity: bool = True) -> Any:
    """A field holding a path, or `KIND:PATH`; a leading `~` of the path is the home folder."""
    return dataclasses.field(default=default, metadata={"path": True, "identity": identity})


def entries(default: tuple, form: str, identity: bool = True) -> Any:
    """A field holding a tuple; form: what of, with examples, for the one who gave something else."""
    return dataclasses.field(default=default, metadata={"form": form, "identity": identity})


def template(settings: Any) -> Any:
    """A ConfigDict with the fields and values of a settings instance (nested instances and dicts too)."""
    return Door(plain(settings))


def identity(settings: Any) -> dict[str, Any]:
    """The JSON-able part of a settings instance that determines results."""
    return plain(settings, only_identity=True)


def each(kind: type, identity: bool = True) -> Any:
    """A field holding a mapping from names to settings of one class."""
    return dataclasses.field(default_factory=dict, metadata={"each": kind, "identity": identity})


def as_dict(given: Any) -> dict[str, Any]:
    """A ConfigDict or mapping as nested dicts. Raises `BadInput` where it cannot be read, e.g. a value is required."""
    try:
        unset = list(_unset(given, "config"))
        if not unset:
            return given.to_dict() if isinstance(given, ConfigDict) else dict(given)
    except Exception as error:
        raise BadInput(f"config cannot be read ({type(error).__name__}: {error})") from error
    raise BadInput(f"{', '.join(unset)} must be given, e.g. --{unset[0]}=VALUE")


def _unset(group: Any, where: str) -> Iterator[str]:
    """Dotted names of the placeholders in a ConfigDict that must be filled and are not."""
    for key in group if isinstance(group, ConfigDict) else ():
        try:
            yield from _unset(group[key], f"{where}.{key}")
        except RequiredValueError:
            yield f"{where}.{key}"


def dotted(given: Mapping[str, Any], where: str) -> Iterator[str]:
    """The dotted names of all values in nested dicts."""
    for name, value in given.items():
        here = f"{where}.{name}"
        yield from dotted(value, here) if isinstance(value, Mapping) and value else (here,)


def resolve(like: Any, given: Mapping[str, Any], where: str = "config", others: Sequence[str] = ()) -> Any:
    """Settings of the class (or as the instance) `like`, changed by a nested mapping or ConfigDict.

    others: dotted names outside `like` that a misspelt name may stand for. Raises `BadInput` naming every problem
    at once.
    """
    like, given = like() if isinstance(like, type) else like, as_dict(given)
    reading = Reading([*names(like, given, where), *others])
    settings = reading.settings(like, given, where)
    if reading.problems:
        raise BadInput("; ".join(reading.problems))
    return settings


def load(path: str, overrides: Sequence[str] = ()) -> Any:
    """The ConfigDict of `path[:argument]` with `--config.key=value` overrides, the last of one name. Raises `BadInput`.

    Whether names and values are right is for `resolve` to say.
    """
    file, argument = _parts(path)
    made = _called(file, "get_config", _module(file).get_config, argument)
    if not isinstance(made, ConfigDict | Mapping):
        form = "return a ConfigDict, e.g. the one of experiment.template()"
        raise BadInput(f"config file {file}: get_config() returned {type(made).__name__}; {form}")
    config = made if isinstance(made, ConfigDict) and not isinstance(made, FrozenConfigDict) else Door(made)
    for name, written in _pairs(overrides):
        change(config, name, written, as_written=True)
    return config


def change(config: ConfigDict, name: str, value: Any, as_written: bool = False) -> None:
    """Set the setting of a dotted name, in which the names of arms and panels may hold dots and blanks themselves.

    as_written: the value is text from the command line and becomes what the setting holds. A name that leads
    nowhere is marked, so that `resolve` refuses it together with all else that is wrong.
    """
    group: Any = config
    rest = name
    while True:
        kinds = _kinds(group)
        keys = {str(key): key for key in kinds}
        known = max((k for k in keys if rest == k or rest.startswith(f"{k}.")), key=len, default=None)
        if known is None:
            key, _, beyond = rest.partition(".")
            break
        key, beyond = keys[known], rest[len(known) + 1 :]
        if not beyond or not issubclass(kinds[key], ConfigDict):
            break
        group, rest = group[key], beyond
    if as_written and not beyond:
        value = _read(value, kinds.get(key, object))
    value = Door(value) if isinstance(value, Mapping) else value
    with contextlib.ExitStack() as opened:  # neither lock nor types stand in the way of what is judged later
        if group.is_type_safe:
            opened.enter_context(group.ignore_type())
        if group.is_locked:
            opened.enter_context(group.unlocked())
        group[key] = Missing(beyond) if beyond else value


def _kinds(group: ConfigDict) -> dict[Any, type]:
    """The type of every value, also of those that refer to others or must still be given."""
    try:
        fields = dict(group.items(preserve_field_references=True))
    except TypeError as error:  # a ConfigDict sorts its names
        raise BadInput(f"names of one group of the config must all be words ({error})") from error
    return {k: v.get_type() if isinstance(v, FieldReference) else type(v) for k, v in fields.items()}


def _pairs(overrides: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Name and text of `--config.NAME=TEXT` or `--config.NAME TEXT`. Raises `BadInput`."""
    left = list(overrides)
    while left:
        name, equals, written = left.pop(0).partition("=")
        if not name.removeprefix("--config."):
            raise BadInput(f"{name}=... names no setting; settings are given as --config.KEY=VALUE")
        if not name.startswith("--config."):
            raise BadInput(f"stray argument {name!r}; settings are given as --config.KEY=VALUE")
        if not equals:
            if not left or left[0].startswith("--"):
                raise BadInput(f"{name} has no value; settings are given as --config.KEY=VALUE")
            written = left.pop(0)
        yield name.removeprefix("--config."), written


def _read(written: str, kind: type) -> Any:
    """Text from the command line as a value of this type, or of any; the text itself where it is none."""
    if kind is str:
        return written
    if kind is bool:
        return {"true": True, "false": False}.get(written.lower(), written)
    for read in (ast.literal_eval, float):  # float: inf and nan
        with warnings.catch_warnings(action="ignore"), contextlib.suppress(Exception):
            return read(written.strip())
    return written


def sweep(path: str) -> list[dict[str, Any]]:
    """The points of `sweep()` in a config file, dicts of dotted names and values; none where there is no sweep.

    A `sweep` that takes an argument gets that of `path:argument`, as `get_config` does. Raises `BadInput`.
    """
    file, argument = _parts(path)
    made = getattr(_module(file), "sweep", tuple)

    def points_of(*given: str) -> list[Any]:
        takes = made is not tuple and any(
            p.kind in POSITIONAL for p in inspect.signature(made).parameters.values()
        )
        return list(itertools.islice(made(*given) if takes else made(), POINTS + 1))

    points = _called(file, "sweep", points_of, argument)
    if len(points) > POINTS:
        raise BadInput(f"config file {file}: sweep() has more than {POINTS:,} points; make it end")
    for index, point in enumerate(points):
        if not isinstance(point, Mapping) or not all(isinstance(name, str) and name for name in point):
            form = "must be a dict of names and values, e.g. {'train.learning_rate': 1e-3}"
            raise BadInput(f"config file {file}: point {index} of sweep() {form}")
    return points


def _parts(path: str) -> tuple[str, str]:
    """File and argument of `file[:argument]`."""
    file, _, argument = home(path).partition(":")
    return file, argument


def _called(file: str, name: str, function: Any, argument: str) -> Any:
    """What a function of a config file returns. Raises `BadInput` where it raises anything."""
    try:
        return function(*([argument] if argument else []))
    except (Exception, SystemExit) as error:
        raise BadInput(f"config file {file}: {name}() failed: {_told(error)}") from error


def _told(error: BaseException) -> str:
    return str(error) if isinstance(error, BadInput) else f"{type(error).__name__}: {error}"


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
    except (Exception, SystemExit) as error:
        raise BadInput(f"config file {file} failed: {_told(error)}") from error
    if not hasattr(module, "get_config"):
        raise BadInput(f"config file {file} has no get_config(); write one that returns a ConfigDict")
    return module


def product(**axes: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Every combination of the axes; `model__width=(1, 2)` names the setting `model.width`."""
    names = [name.replace("__", ".") for name in axes]
    for values in itertools.product(*axes.values()):
        yield dict(zip(names, values, strict=True))
