"""SIGTERM, SIGHUP and Ctrl-C: remembered when they come, obeyed where nothing is lost."""

import contextlib
import os
import signal
import stat
import sys
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
    """Remember SIGTERM, SIGINT and SIGHUP instead of dying; a second one dies at once.

    SIGHUP, sent when a terminal or an ssh connection closes, stays ignored under `nohup`.
    """
    global _received
    _received = None

    def remember(signum, frame) -> None:
        global _received
        _received = signum
        if signum == signal.SIGHUP:  # often sent twice, by the shell and by the kernel
            signal.signal(signum, signal.SIG_IGN)
            _turn_from_terminal()
        else:
            signal.signal(signum, signal.SIG_DFL)

    signals = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signals.append(signal.SIGHUP)
    before = {s: signal.signal(s, remember) for s in signals}
    try:
        yield
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


def _turn_from_terminal() -> None:
    """Write no more to a terminal that has hung up: it would fail before everything is saved."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
            if stat.S_ISCHR(os.fstat(stream.fileno()).st_mode):
                os.dup2(nowhere.fileno(), stream.fileno())


def wanted() -> int | None:
    """The signal that asks the run to stop, if any; several processes agree on it, so that all must ask."""
    return _received if processes.count() == 1 else processes.agreed(_received)


def poll() -> None:
    """Raise `Interrupted` if a signal has come; call where everything done so far is on disk."""
    processes.alive()
    if signum := wanted():
        raise Interrupted(signum)
