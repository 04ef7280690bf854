"""The command line: `collapse run | plan | report | verify | import | sample | bench`.

Kept short: it reads arguments, turns every foreseen failure into one line and an exit code (2 for bad input,
1 for a run that could not finish, 128 + signal when stopped), and calls the module that does the work.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from collapse_jax import config as settings_
from collapse_jax import processes
from collapse_jax.config import BadInput
from collapse_jax.console import trouble
from collapse_jax.interrupt import Interrupted


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message}; see `{self.prog} --help`")


def _parser() -> _Parser:
    parser = _Parser(prog="collapse", allow_abbrev=False, description=sys.modules["collapse_jax"].__doc__)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)

    def command(name: str, about: str, config: bool = True) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=about, description=about, allow_abbrev=False)
        if config:
            made.add_argument(
                "--config",
                required=True,
                metavar="FILE.py",
                help="settings; change any with --config.KEY=VALUE",
            )
            made.add_argument(
                "--store",
                type=Path,
                metavar="DIR",
                help="where generations and data live, to share between experiments (default: workdir)",
            )
        return made

    run = command("run", "run an experiment, or resume it where it stopped")
    run.add_argument("--workdir", type=Path, required=True, metavar="DIR")
    run.add_argument(
        "--sweep",
        nargs="?",
        const="all",
        metavar="N",
        help="run the points of the config's sweep() in turn, or point N alone",
    )
    plan = command("plan", "print what a run would do, without training")
    plan.add_argument("--workdir", type=Path, metavar="DIR", help="count what is already there")
    plan.add_argument(
        "--device", default="", metavar="NAME", help="estimate the time on this accelerator, e.g. H100"
    )
    plan.add_argument(
        "--price", type=float, default=0.0, metavar="X", help="of one device for an hour, to add up"
    )
    imported = command("import", "turn real data into rows, for later runs to find")
    imported.add_argument("--workdir", type=Path, metavar="DIR")
    bench = command("bench", "measure training and sampling speed at a config's shapes")
    bench.add_argument("--json", action="store_true", help="print one JSON line")
    bench.add_argument("--seconds", type=float, default=10.0, help="measured time for each of the two")
    report = command(
        "report", "rebuild the report of an experiment, or one of several side by side", config=False
    )
    report.add_argument("workdir", type=Path, nargs="+")
    verify = command("verify", "re-hash every generation and all data of an experiment", config=False)
    verify.add_argument("workdir", type=Path)
    sample = command("sample", "print samples of a generation", config=False)
    sample.add_argument("workdir", type=Path)
    sample.add_argument("--generation", required=True, metavar="ID", help="the id, or its first letters")
    sample.add_argument("-n", type=int, default=8, help="how many rows")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    return processes.leave(lambda: _answered(arguments))


def _answered(arguments: Sequence[str] | None) -> int:
    try:
        return _main(sys.argv[1:] if arguments is None else list(arguments))
    except BadInput as error:
        print(f"collapse: {error}", file=sys.stderr)
        return 2
    except processes.Lost as error:
        print(f"collapse: {error}; run the same command again", file=sys.stderr)
        return 1
    except Interrupted as stop:
        print(f"collapse: {stop}", file=sys.stderr)
        return stop.exit_code
    except OSError as error:
        print(f"collapse: {trouble(error)}, then run the same command again", file=sys.stderr)
        return 1


def _main(arguments: list[str]) -> int:
    args, left = _parser().parse_known_args(arguments)
    if left and not hasattr(args, "config"):
        raise BadInput(f"stray argument {left[0]!r}; see `collapse {args.command} --help`")
    return globals()[f"_{args.command}"](args, left)


def _config(args: Any, overrides: Sequence[str]) -> Any:
    return settings_.load(args.config, overrides)


def _run(args: Any, overrides: list[str]) -> int:
    config = _config(args, overrides)
    if args.sweep is None:
        return _run_one(config, args.workdir, args.store)
    points = settings_.sweep(args.config)
    if not points:
        raise BadInput(f"{args.config} has no sweep(); run it without --sweep")
    chosen = range(len(points)) if args.sweep == "all" else [_index(args.sweep, len(points))]
    codes = []
    for index in chosen:
        config = _config(args, overrides)
        config.update_from_flattened_dict(points[index])
        codes.append(
            _run_one(config, args.workdir / f"point-{index:03d}", args.store or args.workdir / "store")
        )
    return max(codes)


def _index(given: str, points: int) -> int:
    if not given.isdigit() or int(given) >= points:
        raise BadInput(f"--sweep={given}: sweep() has points 0 to {points - 1}")
    return int(given)


def _is_closed_form(config: Any) -> bool:
    engine = config.get("engine", "chain")
    if engine not in ("chain", "closed_form"):
        raise BadInput(f"config.engine={engine!r} is neither 'chain' nor 'closed_form'")
    return engine == "closed_form"


def _chain(args: Any, overrides: list[str]) -> Any:
    """Settings of a chain experiment, for the commands that only make sense there."""
    from collapse_jax import experiment

    config = _config(args, overrides)
    if _is_closed_form(config):
        raise BadInput(
            f"collapse {args.command} is for trained families; {args.config} is a closed form, just run it"
        )
    return experiment.resolve(config)


def _run_one(config: Any, workdir: Path, store: Path | None) -> int:
    processes.initialize()
    if _is_closed_form(config):
        if processes.count() > 1:
            raise BadInput(
                "a closed form runs in one process, not in several; start one, with JAX_NUM_PROCESSES=1"
            )
        from collapse_jax import closed_form

        return closed_form.run(closed_form.resolve(config), workdir, store)
    from collapse_jax import experiment, run

    return run.run(experiment.resolve(config), workdir, store)


def _plan(args: Any, overrides: list[str]) -> int:
    config = _config(args, overrides)
    if _is_closed_form(config):
        from collapse_jax import closed_form

        print(closed_form.describe(closed_form.resolve(config)))
        return 0
    from collapse_jax import experiment, plan

    settings = experiment.resolve(config)
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

    if args.n < 1:
        raise BadInput(f"-n {args.n} must be at least 1")
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
