"""Families whose fit is a formula, run through any workflow in memory and held against their exact laws.

A config file builds its ConfigDict with `template` and `panel`; `resolve`, `run`, `describe` and `verify` are
what the command line calls for configs whose `engine` is "closed_form".
"""

from pathlib import Path

from collapse_jax.closed_form.settings import ClosedForm, Panel, panel, resolve, template

__all__ = ["ClosedForm", "Panel", "describe", "panel", "resolve", "run", "template", "verify"]


def run(experiment: ClosedForm, workdir: Path, store: Path | None = None) -> int:
    """Run what is missing, write records and report; exit code 0. Raises `BadInput`, `Interrupted`."""
    from collapse_jax.closed_form import experiment as experiments

    return experiments.run(experiment, workdir, store)


def describe(experiment: ClosedForm) -> str:
    """What would run: one line an arm, with how its past is held and the seeds of a chunk."""
    from collapse_jax.closed_form import experiment as experiments

    return experiments.describe(experiment)


def verify(store: Path) -> list[str]:
    """Re-hash every committed arm of a store: one line for each thing that is wrong."""
    from collapse_jax.closed_form import records

    return records.verify(store)
