"""SIGTERM and Ctrl-C: remembered when they come, obeyed where nothing is lost."""

import contextlib
import signal
from collections.abc import Iterator

from collapse_jax import processes

_received: int | None = None


class Interrupted(Exception):
    """The run was asked to stop; everything is saved and the same command resumes."""

    def __init__(self, signum: int):
        super().__init__(f"stopped by {signal.Signals(signum).name}; run the same command again to resume")
        self.exit_code = 128 + signum


@contextlib.contextmanager
def caught() -> Iterator[None]:
    """Remember SIGTERM and SIGINT instead of dying; a second one dies at once."""
    global _received
    _received = None

    def remember(signum, frame) -> None:
        global _received
        _received = signum
        signal.signal(signum, signal.SIG_DFL)

    before = {s: signal.signal(s, remember) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


def wanted(step: int = 0, every: int = 1) -> bool:
    """Whether a signal has asked the run to stop; several processes agree on it each `every` steps."""
    if processes.count() == 1:
        return _received is not None
    return step % every == 0 and processes.any_of(_received is not None)


def poll() -> None:
    """Raise `Interrupted` if a signal has come; call where everything done so far is on disk."""
    processes.alive()
    if wanted():
        raise Interrupted(_received or signal.SIGTERM)
