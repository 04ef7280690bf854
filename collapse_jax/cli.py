"""The command line: `collapse run | plan | report | verify | import | sample | bench`.

Kept short: it reads arguments, turns every foreseen failure into one line and an exit code (2 for bad input,
1 for a run that could not finish, 128 + signal when stopped), and calls the module that does the work.
"""

import importlib
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from collapse_jax import arguments as arguments_
from collapse_jax import config as settings_
from collapse_jax import processes
from collapse_jax.config import BadInput
from collapse_jax.console import trouble
from collapse_jax.interrupt import Interrupted

ENGINES = {"chain": "collapse_jax.experiment", "closed_form": "collapse_jax.closed_form"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    return processes.leave(lambda: _answered(arguments))


def _answered(arguments: Sequence[str] | None) -> int:
    try:
        code = _main(sys.argv[1:] if arguments is None else list(arguments))
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except BadInput as error:
        print(f"collapse: {_printable(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader has enough; what Python still holds for it goes nowhere
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except processes.Lost as error:
        print(f"collapse: {error}; run the same command again", file=sys.stderr)
        return 1
    except Interrupted as stop:
        print(f"collapse: {stop}", file=sys.stderr)
        return stop.exit_code
    except OSError as error:
        print(f"collapse: {trouble(error)}, then run the same command again", file=sys.stderr)
        return 1


def _printable(line: str) -> str:
    """A line whose control characters a terminal shows, and does not obey."""
    if line.isprintable():
        return line
    from collapse_jax.report.words import visible

    return visible(line)


def _main(arguments: list[str]) -> int:
    args, left = arguments_.parser().parse_known_args(arguments)
    if left and not hasattr(args, "config"):
        raise BadInput(f"stray argument {left[0]!r}; see `collapse {args.command} --help`")
    return globals()[f"_{args.command}"](args, left)


def _settings(args: Any, overrides: Sequence[str], point: Mapping[str, Any] | None = None) -> Any:
    """The checked experiment of the config, perhaps at a point of its sweep: a chain or a closed form."""
    config = settings_.load(args.config, overrides)
    for name, value in (point or {}).items():
        settings_.change(config, name, value)
    engine = config.get("engine", "chain")
    if not isinstance(engine, str) or engine not in ENGINES:
        raise BadInput(f"config.engine={engine!r} is neither 'chain' nor 'closed_form'")
    return importlib.import_module(ENGINES[engine]).resolve(config)


def _chain(args: Any, overrides: list[str]) -> Any:
    """Settings of a chain experiment, for the commands that only make sense there."""
    settings = _settings(args, overrides)
    if _is_closed_form(settings):
        raise BadInput(
            f"collapse {args.command} is for trained families; {args.config} is a closed form, just run it"
        )
    return settings


def _is_closed_form(settings: Any) -> bool:
    return getattr(settings, "engine", "chain") == "closed_form"


def _run(args: Any, overrides: list[str]) -> int:
    if args.sweep is None:
        return _run_one(_settings(args, overrides), args.workdir, args.store)
    points = settings_.sweep(args.config)
    if not points:
        raise BadInput(f"{args.config} has no sweep(); run it without --sweep")
    chosen = range(len(points)) if args.sweep == "all" else [_index(args.sweep, len(points))]
    checked = {index: _point(args, overrides, index, points[index]) for index in chosen}
    store = args.store or args.workdir / "store"
    return max(_run_one(one, args.workdir / f"point-{index:03d}", store) for index, one in checked.items())


def _point(args: Any, overrides: list[str], index: int, point: Mapping[str, Any]) -> Any:
    """The checked experiment at a point of the sweep. Raises `BadInput` naming the point."""
    for override in overrides:
        if (name := override.partition("=")[0].removeprefix("--config.")) in point:
            raise BadInput(f"--config.{name} is what sweep() varies; leave it out, or run without --sweep")
    try:
        return _settings(args, overrides, point)
    except BadInput as error:
        raise BadInput(f"point {index} of sweep(): {error}") from error


def _index(given: str, points: int) -> int:
    if not given.isdecimal() or int(given) >= points:
        raise BadInput(f"--sweep={given}: sweep() has points 0 to {points - 1}")
    return int(given)


def _run_one(settings: Any, workdir: Path, store: Path | None) -> int:
    processes.initialize()
    if _is_closed_form(settings):
        if processes.count() > 1:
            raise BadInput(
                "a closed form runs in one process, not in several; start one, with JAX_NUM_PROCESSES=1"
            )
        from collapse_jax import closed_form

        return closed_form.run(settings, workdir, store)
    from collapse_jax import run

    return run.run(settings, workdir, store)


def _plan(args: Any, overrides: list[str]) -> int:
    settings = _settings(args, overrides)
    if _is_closed_form(settings):
        from collapse_jax import closed_form

        print(closed_form.describe(settings))
        return 0
    from collapse_jax import plan

    with _store(args) as store:
        print(plan.describe(settings, store, plan.Offer(args.device, args.price), args.workdir))
    return 0


def _import(args: Any, overrides: list[str]) -> int:
    from collapse_jax import families, files
    from collapse_jax.data.dataset import describe

    settings = _chain(args, overrides)
    store = args.store or args.workdir
    if store is None:
        raise BadInput("say where the rows go: --store=DIR or --workdir=DIR")
    files.make_folder(store)
    print(describe(families.kind(settings.family).prepare(settings.data, store)))
    return 0


def _bench(args: Any, overrides: list[str]) -> int:
    from collapse_jax import bench

    settings = _chain(args, overrides)
    with _store(args) as store:
        bench.main(settings, store, args.seconds, args.json)
    return 0


def _report(args: Any, _: list[str]) -> int:
    from collapse_jax import report

    print(report.build(args.workdir[0]) if len(args.workdir) == 1 else report.build_many(args.workdir))
    return 0


def _verify(args: Any, _: list[str]) -> int:
    from collapse_jax import verify

    problems = verify.problems(args.workdir)
    print("\n".join(problems) if problems else f"{args.workdir}: everything matches its manifest")
    return 1 if problems else 0


def _sample(args: Any, _: list[str]) -> int:
    from collapse_jax import show

    for line in show.samples(args.workdir, args.generation, args.n):
        print(line)
    return 0


class _store:
    """The folder to find data in: the one given, else one that goes away again."""

    def __init__(self, args: Any):
        self.store = args.store
        self.given = args.store or getattr(args, "workdir", None)

    def __enter__(self) -> Path:
        from collapse_jax import workdir

        if self.given is not None:
            ran = not self.store and (self.given / workdir.EXPERIMENT).exists()
            return workdir.store_of(self.given) if ran else self.given
        self.aside = tempfile.TemporaryDirectory(prefix="collapse-")
        return Path(self.aside.name)

    def __exit__(self, *_: Any) -> None:
        if self.given is None:
            self.aside.cleanup()
