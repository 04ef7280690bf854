"""One owner at a time: a folder is locked by host and process, with a heartbeat.

The kernel's own lock settles two processes of one host and vanishes with its owner. Other hosts of a shared
file system see the heartbeat: a lock that has not beaten for a minute belongs to the dead and is taken over.
"""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from collapse_jax.config import BadInput

BEAT_S = 5.0
DEAD_S = 60.0


@contextlib.contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Own the folder for the duration. Raises `BadInput` with who holds it."""
    path = folder / "lock"
    with open(path, "a+", encoding="utf-8") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BadInput(_refusal(folder, _read(path))) from None
        holder = _read(path)
        beaten_s = time.time() - holder.get("heartbeat", 0)
        if holder.get("host", socket.gethostname()) != socket.gethostname() and beaten_s < DEAD_S:
            raise BadInput(_refusal(folder, holder))
        stop = threading.Event()
        _beat(f)
        beat = threading.Thread(target=_keep_beating, args=(f, stop), daemon=True, name="lock-heartbeat")
        beat.start()
        try:
            yield
        finally:
            stop.set()
            beat.join()
            f.seek(0)
            f.truncate()


def _keep_beating(f, stop: threading.Event) -> None:
    while not stop.wait(BEAT_S):
        with contextlib.suppress(OSError):  # a full disk must not kill the heartbeat
            _beat(f)


def _beat(f) -> None:
    f.seek(0)
    f.truncate()
    json.dump({"host": socket.gethostname(), "pid": os.getpid(), "heartbeat": time.time()}, f)
    f.flush()


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _refusal(folder: Path, holder: dict) -> str:
    who = f"process {holder['pid']} on {holder['host']}" if "pid" in holder else "another process"
    return f"{folder} is in use by {who}; wait for it, stop it, or give another --workdir"
