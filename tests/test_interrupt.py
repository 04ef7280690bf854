"""Signals: remembered until everything is saved; what was ignored stays ignored."""

import os
import signal
import sys

import pytest

from collapse_jax import interrupt


@pytest.fixture
def hangup(monkeypatch):
    """SIGHUP as pytest had it, afterwards, and pytest's own terminal left alone."""
    monkeypatch.setattr(interrupt, "_turn_from_terminal", lambda: None)
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_remembered_and_obeyed_where_asked(hangup, signum):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    before = signal.getsignal(signum)
    with interrupt.caught():
        interrupt.poll()
        os.kill(os.getpid(), signum)
        assert interrupt.wanted() == signum
        with pytest.raises(interrupt.Interrupted, match=signum.name) as stop:
            interrupt.poll()
        assert stop.value.exit_code == 128 + signum
    assert signal.getsignal(signum) == before


def test_a_second_hangup_does_not_kill(hangup):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with interrupt.caught():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGHUP)
        assert interrupt.wanted() == signal.SIGHUP


def test_writing_goes_on_when_the_terminal_has_hung_up(monkeypatch):
    terminal, here = os.openpty()
    with open(here, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        os.close(terminal)
        interrupt._turn_from_terminal()
        print("would raise OSError", flush=True)


def test_a_hangup_that_nohup_ignores_stays_ignored(hangup):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with interrupt.caught():
        os.kill(os.getpid(), signal.SIGHUP)
        assert interrupt.wanted() is None
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
