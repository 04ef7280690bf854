"""Settings of a closed-form experiment: panels, each a family with its settings and its arms.

A config file calls `template(name, {panel: panel("gaussian", ...)}, reference=...)`; `resolve` turns the
edited ConfigDict back and reports every problem at once. A record's arm is "panel/arm", or the arm where
there is one panel only.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from ml_collections import ConfigDict

from collapse_jax import config as settings_
from collapse_jax.closed_form import families
from collapse_jax.closed_form.engine import HOW
from collapse_jax.closed_form.family import Family
from collapse_jax.config import BadInput, choice, each, entries, number, text
from collapse_jax.measures.evidence import Thresholds
from collapse_jax.measures.series import REFERENCE, reference_problems
from collapse_jax.reading import Missing, name_problem, shown
from collapse_jax.spelling import hint, likely
from collapse_jax.workflows import Arm, Workflow


@dataclass(frozen=True)
class Panel:
    """Arms of one family that differ in their workflow.

    rows: n, real rows and samples of a generation. seeds: independent chains. metrics: what to keep
    (empty: what the family finds worth it). how: how the past is held, see engine.py.
    """

    family: str = choice("gaussian", tuple(families.WHERE))
    settings: Any = None
    arms: dict[str, Arm] = each(Arm)
    rows: int = number(100, 1)
    generations: int = number(100, 1)
    seeds: int = number(1000, 2)
    metrics: tuple = ()
    how: str = choice("auto", HOW)

    def problems(self) -> Iterator[str]:
        if not self.arms:
            yield "arms is empty; name at least one, e.g. arms.replace.workflow = 'replace'"
        for name in self.metrics:
            if not isinstance(name, str) or name not in self.settings.units:
                near = hint(likely(str(name), self.settings.units))
                yield f"metrics has {shown(name)} and {self.family} measures {', '.join(self.settings.units)}{near}"
        for name, arm in self.arms.items():
            try:
                yield from (f"arms.{name}: {line}" for line in self.settings.refuses(self.workflow(arm)))
            except BadInput as error:
                yield f"arms.{name}: {error}"

    def workflow(self, arm: Arm) -> Workflow:
        return _workflow(arm, self.rows, self.generations)


# A table of a thousand generations has half a million slices; they are listed once.
_workflow = lru_cache(maxsize=32)(Workflow)


@dataclass(frozen=True)
class ClosedForm:
    """A closed-form experiment. seed: which of the endless sets of seeds. devices: over which seeds are
    split (-1: all). chunk: seeds in memory at once (0: as many as 256 MiB hold). keep_seeds: write every
    seed's values.
    """

    engine: str = choice("closed_form", ("closed_form",))
    name: str = text("experiment", identity=False)
    seed: int = number(0, 0)
    devices: int = number(-1, -1, identity=False)
    chunk: int = number(0, 0, identity=False)
    keep_seeds: bool = field(default=True, metadata={"identity": False})
    panels: Any = None
    thresholds: Thresholds = field(default=Thresholds(), metadata={"identity": False})
    reference: tuple = entries((), REFERENCE, identity=False)

    def problems(self) -> Iterator[str]:
        yield from reference_problems(self.reference)

    def arms(self) -> Iterator[tuple[str, Panel, Arm]]:
        """(name in the records, panel, arm), in the order of the config."""
        for name, panel in self.panels.items():
            for arm, settings in panel.arms.items():
                yield (f"{name}/{arm}" if len(self.panels) > 1 else arm), panel, settings


def panel(
    family: str,
    arms: Mapping[str, Any] | tuple[str, ...] = ("replace", "accumulate_subsample", "accumulate"),
    rows: int = 100,
    generations: int = 100,
    seeds: int = 1000,
    metrics: tuple[str, ...] = (),
    **settings: Any,
) -> Panel:
    """A panel for a config file; `arms` are names of workflows, or names with their `Arm`."""
    arms = arms if isinstance(arms, Mapping) else {name: Arm(name) for name in arms}
    return Panel(family, families.kind(family)(**settings), dict(arms), rows, generations, seeds, metrics)


def template(name: str, panels: Mapping[str, Panel], **settings: Any) -> ConfigDict:
    """A ConfigDict with every setting of a closed-form experiment, for a config file to return."""
    return settings_.template(ClosedForm(name=name, panels=dict(panels), **settings))


def resolve(given: Mapping[str, Any] | ConfigDict) -> ClosedForm:
    """The experiment of a config. Raises `BadInput` naming every problem at once."""
    plain = settings_.as_dict(given)
    problems: list[str] = []
    panels = plain.pop("panels", None)
    if not isinstance(panels, Mapping) or not panels:
        problems.append("config.panels is empty; name at least one, e.g. {'gaussian': panel('gaussian')}")
        panels = {}
    built = {str(name): _panel(str(name), values, panels, problems) for name, values in panels.items()}
    try:
        rest = settings_.resolve(ClosedForm(), plain, others=list(settings_.dotted(panels, "config.panels")))
    except BadInput as error:
        problems.append(str(error))
    if problems:
        raise BadInput("; ".join(problems))
    return dataclasses.replace(rest, panels=built)


def _panel(name: str, given: Any, panels: Mapping[Any, Any], problems: list[str]) -> Panel | None:
    where = f"config.panels.{name}"
    if isinstance(given, Missing):
        there = [str(other) for other, value in panels.items() if not isinstance(value, Missing)]
        near = hint(f"config.panels.{other}" for other in likely(name, there))
        problems.append(f"{where} is not there{near} (there are {', '.join(there)})")
        return None
    if wrong := name_problem(name):
        problems.append(f"config.panels: {shown(name)} {wrong}")
    if not isinstance(given, Mapping):
        form = "a panel with family, settings, arms, rows, ...; make one with closed_form.panel()"
        problems.append(f"{where}={shown(given)} must be {form}")
        return None
    family = given.get("family", "gaussian")
    if not isinstance(family, str) or family not in families.WHERE:
        near = hint(likely(str(family), families.WHERE))
        problems.append(f"{where}.family={shown(family)} is not one of {', '.join(families.WHERE)}{near}")
        return None
    blank: Family = families.kind(family)()
    try:
        return settings_.resolve(Panel(family, blank), given, where)
    except BadInput as error:
        problems.append(str(error))
        return None
