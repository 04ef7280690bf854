"""What the command line takes: every command with its options."""

import argparse
import sys
from pathlib import Path
from typing import Any, NoReturn

from collapse_jax.config import BadInput
from collapse_jax.spelling import hint, likely


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message}; see `{self.prog} --help`")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does it; before it misses anything, options that there are not are refused."""
        known = [name for action in self._actions for name in action.option_strings]
        for name in (word.partition("=")[0] for word in (args if self._subparsers is None else ())):
            if name.startswith("--") and not name.startswith("--config.") and name not in known:
                self.error(f"{name} is not an option{hint(likely(name, known))}")
        return super().parse_known_args(args, namespace)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        names = list(action.choices or [value])
        if value not in names:
            line = f"{value!r} is not one of {', '.join(names)}{hint(likely(value, names))}"
            raise argparse.ArgumentError(action, line)


def _path(written: str) -> Path:
    """A path of the command line, `~` being the home folder; shells leave it as it is in `--workdir=~/x`."""
    try:
        if written:
            return Path(written).expanduser()
    except RuntimeError:
        pass
    raise argparse.ArgumentTypeError(f"{written!r} is no folder" if written else "it is empty; name a folder")


def _between(kind: type, low: float, high: float) -> Any:
    """Reads a number in [low, high]."""

    def read(written: str) -> Any:
        value = kind(written)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{written} must be between {low:g} and {high:g}")
        return value

    read.__name__ = {int: "whole number", float: "number"}[kind]
    return read


def parser() -> argparse.ArgumentParser:
    """Reads the arguments of every command; raises `BadInput` where they are wrong."""
    top = _Parser(prog="collapse", allow_abbrev=False, description=sys.modules["collapse_jax"].__doc__)
    commands = top.add_subparsers(dest="command", required=True, parser_class=_Parser)

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
                type=_path,
                metavar="DIR",
                help="where generations and data live, to share between experiments (default: workdir)",
            )
        return made

    run = command("run", "run an experiment, or resume it where it stopped")
    run.add_argument("--workdir", type=_path, required=True, metavar="DIR")
    run.add_argument(
        "--sweep",
        nargs="?",
        const="all",
        metavar="N",
        help="run the points of the config's sweep() in turn, or point N alone",
    )
    plan = command("plan", "print what a run would do, without training")
    plan.add_argument("--workdir", type=_path, metavar="DIR", help="count what is already there")
    plan.add_argument(
        "--device", default="", metavar="NAME", help="estimate the time on this accelerator, e.g. H100"
    )
    plan.add_argument(
        "--price",
        type=_between(float, 0, 1e9),
        default=0.0,
        metavar="X",
        help="of one device for an hour, to add up",
    )
    imported = command("import", "turn real data into rows, for later runs to find")
    imported.add_argument("--workdir", type=_path, metavar="DIR")
    bench = command("bench", "measure training and sampling speed at a config's shapes")
    bench.add_argument("--json", action="store_true", help="print one JSON line")
    bench.add_argument(
        "--seconds",
        type=_between(float, 0.001, 1e6),
        default=10.0,
        metavar="X",
        help="measured time for each of the two",
    )
    report = command(
        "report", "rebuild the report of an experiment, or one of several side by side", config=False
    )
    report.add_argument("workdir", type=_path, nargs="+")
    verify = command("verify", "re-hash every generation and all data of an experiment", config=False)
    verify.add_argument("workdir", type=_path)
    sample = command("sample", "print samples of a generation", config=False)
    sample.add_argument("workdir", type=_path)
    sample.add_argument("--generation", required=True, metavar="ID", help="the id, or its first letters")
    sample.add_argument(
        "-n", type=_between(int, 1, 1e6), default=8, metavar="ROWS", help="how many rows (default: 8)"
    )
    return top
