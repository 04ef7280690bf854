"""One owner at a time: a folder is locked by host and process, with a heartbeat.

The kernel's own lock settles two processes of one host and vanishes with its owner. Other hosts of a shared
file system, and all on one that has no locks, see the heartbeat: who watches an owner's beat stand still for a
minute, by the watcher's own clock, takes over. Clocks of two hosts are never compared.
"""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from collapse_jax import files
from collapse_jax.config import BadInput
from collapse_jax.console import loud, say

BEAT_S = 5.0
DEAD_S = 60.0
SETTLE_S = 0.5  # without locks: whoever has written itself down last by then is the owner


@contextlib.contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Own the folder for the duration. Raises `BadInput` with who holds it."""
    path = files.inside(folder, folder / "lock")
    with contextlib.ExitStack() as stack:
        f = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        stack.callback(os.close, f)
        kernel = _kernel_lock(f, folder)
        holder, host = _read(path), socket.gethostname()
        gone = kernel or not _alive(holder.get("pid"))
        if holder and not (holder.get("host") == host and gone) and _beats(path, holder):
            raise BadInput(_refusal(folder, holder))
        me = {"host": host, "pid": os.getpid(), "nonce": uuid.uuid4().hex}
        _beat(f, me)
        if not kernel:
            time.sleep(SETTLE_S)
            if (other := _read(path)).get("nonce") != me["nonce"]:
                raise BadInput(_refusal(folder, other))
        stop = threading.Event()
        beat = threading.Thread(target=_keep_beating, args=(f, me, stop), daemon=True, name="lock-heartbeat")
        beat.start()
        try:
            yield
        finally:
            stop.set()
            beat.join()
            with contextlib.suppress(OSError):
                os.ftruncate(f, 0)


def _kernel_lock(f: int, folder: Path) -> bool:
    """Whether the kernel has locked the file for us; False where the file system has no locks."""
    try:
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except (BlockingIOError, PermissionError):
        raise BadInput(_refusal(folder, _read(folder / "lock"))) from None
    except OSError as error:
        loud(
            f"the file system of {folder} has no locks ({error.strerror}); the heartbeat in {folder / 'lock'} alone "
            "keeps two runs apart"
        )
        return False


def _alive(pid: int | None) -> bool:
    """Whether this host has such a process."""
    try:
        os.kill(pid or 0, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _beats(path: Path, holder: dict) -> bool:
    """Watch the heartbeat of a holder: True as soon as it changes, False when it has stood still for `DEAD_S`."""
    say(
        f"{path.parent} was held by process {holder.get('pid')} on {holder.get('host')}; waiting for a sign of life"
    )
    began = time.monotonic()
    while time.monotonic() - began < DEAD_S:
        time.sleep(min(0.5, DEAD_S / 10))
        now = _read(path)
        if now and now != holder:
            return True
    return False


def _keep_beating(f: int, me: dict, stop: threading.Event) -> None:
    beats = 0
    while not stop.wait(BEAT_S):
        beats += 1
        with contextlib.suppress(OSError):  # a full disk must not kill the heartbeat
            _beat(f, me | {"beats": beats})


def _beat(f: int, said: dict) -> None:
    os.ftruncate(f, 0)
    os.pwrite(f, json.dumps(said).encode(), 0)


def _read(path: Path) -> dict:
    try:
        said = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (FileNotFoundError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _refusal(folder: Path, holder: dict) -> str:
    who = (
        f"process {holder['pid']} on {holder['host']}"
        if {"pid", "host"} <= set(holder)
        else "another process"
    )
    return f"{folder} is in use by {who}; wait for it, stop it, or give another --workdir"
