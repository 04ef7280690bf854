"""What a run tells the person who started it: a progress bar on a terminal, plain lines elsewhere."""

import errno
import os
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from collapse_jax import processes

LINE_EVERY_S = 10.0


def loud(line: str) -> None:
    """One line on standard error that must not be missed."""
    if processes.lead():
        print(f"collapse: WARNING: {line}", file=sys.stderr, flush=True)


def say(line: str) -> None:
    if processes.lead():
        print(line, flush=True)


ADVICE = {
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs: the system has no file descriptors left",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f)",
}


def trouble(error: OSError) -> str:
    """One line on what the system did not allow and what to do about it."""
    line = " ".join(str(error).split())
    texts = [
        advice for number, advice in ADVICE.items() if error.errno == number or os.strerror(number) in line
    ]
    return f"{line}; {texts[0] if texts else 'make room or give another --workdir'}"


def duration(seconds: float | None) -> str:
    """`1 h 02 min`, `3 min 05 s`, `12 s`; `?` when unknown."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


class Bar:
    """Progress of one stage: a bar on a terminal, else a line now and then and one at the end."""

    def __init__(self, title: str, total: int, unit: str):
        self.title, self.total, self.unit = title, max(total, 1), unit
        self.began = self.said = time.monotonic()
        self.first: int | None = None
        self.console = Console()
        self.bar = None
        if self.console.is_terminal and processes.lead():
            self.bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=10),
                TextColumn("{task.fields[note]}", markup=False),
                console=self.console,
                transient=True,
            )
            short = title.partition(" [")[0]  # a terminal line has no room for the arms
            self.task = self.bar.add_task(short, total=self.total, note="")
            self.bar.start()

    def update(self, done: int, note: str = "", later_s: float | None = None) -> None:
        """`done` of total units; `later_s` is the estimate for all that comes after this stage."""
        if self.first is None:
            self.first, self.began = done, time.monotonic()
        left = self.left_s(done)
        whole = None if left is None or later_s is None else left + later_s
        text = f"{done}/{self.total} {self.unit}  {note}  ETA {duration(left)}, in all {duration(whole)}"
        if self.bar is not None:
            self.bar.update(self.task, completed=done, note=text)
        elif time.monotonic() - self.said > LINE_EVERY_S:
            self.said = time.monotonic()
            say(f"{self.title}: {text}")

    def left_s(self, done: int) -> float | None:
        """Estimated seconds to the end of this stage."""
        passed = done - (self.first if self.first is not None else done)
        if passed <= 0:
            return 0.0 if done >= self.total else None
        return (time.monotonic() - self.began) / passed * (self.total - done)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()


class Rate:
    """Items a second since the first step that was told."""

    def __init__(self, per_step: int):
        self.per_step = per_step
        self.first: tuple[int, float] | None = None

    def __call__(self, step: int) -> float:
        now = time.monotonic()
        self.first = self.first or (step, now)
        return (step - self.first[0]) * self.per_step / max(now - self.first[1], 1e-9)
