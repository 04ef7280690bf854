"""Several processes as one run: who they are, what the first decides for all, and what to do when one is missing.

Every process walks through the same stages. Decisions that rest on the disk are taken by process 0 alone and
told to the others (`shared`), so that all do the same whatever a file system shows them. With one process
everything here is a plain call.
"""

import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from collapse_jax.config import BadInput

LIMIT_S = 900.0  # how long a process waits for the others: longer than any program takes to compile
HEARTBEAT_S = 30  # after which a dead process is noticed and ends the others
EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")

_numbers = itertools.count()
_moved = time.monotonic()
_stage = "start"


class Lost(RuntimeError):
    """Another process did not come; what is on disk is sound and the same command resumes."""


def initialize() -> None:
    """Join the other processes, where there are any: named by `EXPLICIT`, by SLURM or by a Cloud TPU pod.

    Raises `BadInput` when only some of the variables are set or are no numbers.
    """
    given = [name for name in EXPLICIT if name in os.environ]
    limits: dict[str, Any] = {"heartbeat_timeout_seconds": HEARTBEAT_S, "initialization_timeout": 300}
    if given:
        if len(given) < len(EXPLICIT):
            missing = ", ".join(name for name in EXPLICIT if name not in given)
            raise BadInput(f"{given[0]} is set but not {missing}; set all three, or none for one process")
        address, count, index = (os.environ[name] for name in EXPLICIT)
        if not (count.isdigit() and index.isdigit() and int(index) < int(count)):
            raise BadInput(f"JAX_PROCESS_ID={index} is not one of JAX_NUM_PROCESSES={count}, counted from 0")
        if int(count) == 1:
            return
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(address, int(count), int(index), **limits)
    elif int(os.environ.get("SLURM_NTASKS", "1")) > 1 or "," in os.environ.get("TPU_WORKER_HOSTNAMES", ""):
        jax.distributed.initialize(**limits)
    else:
        return
    threading.Thread(target=_watch, daemon=True, name="watchdog").start()


def count() -> int:
    return jax.process_count()


def lead() -> bool:
    """Whether this process decides, writes and speaks for all."""
    return jax.process_index() == 0


def at(stage: str) -> None:
    """Name what this process is doing, for the watchdog and for messages about missing processes."""
    global _stage
    _stage = stage
    alive()


def alive() -> None:
    """Tell the watchdog that the run moves."""
    global _moved
    _moved = time.monotonic()


def barrier(name: str) -> None:
    """Wait until every process is here. Raises `Lost` naming the rank and stage that waited in vain."""
    if count() == 1:
        return
    alive()
    try:
        _client().wait_at_barrier(f"collapse/{next(_numbers)}/{name}", int(LIMIT_S * 1000))
    except jax.errors.JaxRuntimeError as error:
        raise Lost(f"{_who()} waited at {name!r} for the others in vain ({_line(error)})") from error
    alive()


def shared(make: Callable[[], Any]) -> Any:
    """What `make()` returns in process 0, JSON, in every process; called there only. Errors reach all."""
    if count() == 1:
        return make()
    key = f"collapse/{next(_numbers)}/shared"
    if lead():
        try:
            found = make()
        except BadInput as error:
            _client().key_value_set(key, json.dumps({"error": str(error)}))
            raise
        _client().key_value_set(key, json.dumps({"found": found}))
    else:
        alive()
        try:
            said = json.loads(_client().blocking_key_value_get(key, int(LIMIT_S * 1000)))
        except jax.errors.JaxRuntimeError as error:
            raise Lost(f"{_who()} heard nothing from process 0 ({_line(error)})") from error
        if "error" in said:
            raise BadInput(said["error"])
        found = said["found"]
    barrier("shared")
    if lead():
        _client().key_value_delete(key)
    return found


def any_of(flag: bool) -> bool:
    """Whether any process says so; all must ask."""
    if count() == 1:
        return flag
    alive()
    return bool(np.any(multihost_utils.process_allgather(np.array([flag]))))


def whole(x: jax.Array) -> np.ndarray:
    """All of an array on the host, also when other processes hold parts of it; all must ask."""
    there = x.is_fully_addressable or x.is_fully_replicated
    return np.asarray(x) if there else np.asarray(multihost_utils.process_allgather(x, tiled=True))


def _watch() -> None:
    """End a process that has stood still for longer than any wait may last: a live rank would hang the rest."""
    while True:
        time.sleep(5.0)
        still_s = time.monotonic() - _moved
        if still_s > LIMIT_S + 60:
            print(
                f"collapse: {_who()} has not moved for {still_s:.0f} s; giving up, run the same command again",
                file=sys.stderr,
                flush=True,
            )
            os._exit(1)


def _who() -> str:
    return f"process {jax.process_index()} of {count()} at stage {_stage!r}"


def _client() -> Any:
    from jax._src import distributed  # the only door to barriers that end and to values by name

    return distributed.global_state.client


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
