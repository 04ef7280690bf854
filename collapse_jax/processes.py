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
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from collapse_jax import cluster, peers
from collapse_jax.config import BadInput

LIMIT_S = 900.0  # how long a process waits for the others: longer than any program takes to compile
JOIN_S = 300  # how long it waits for them to start
LEAVE_S = 10.0  # and to end as well, before it leaves them

_numbers = itertools.count()
_moved = time.monotonic()
_stage = "start"
_leaving = False
_last_word = threading.Lock()
_door: peers.Door | None = None

_gate = threading.Lock()  # held while the processes agree where to stop
_asked = 0  # how often this process has asked whether to stop
_stop: tuple[int, int] | None = None  # (signal, the last question that is still answered by no)
_announced = False


class Lost(RuntimeError):
    """Another process did not come; what is on disk is sound and the same command resumes."""


def initialize() -> None:
    """Join the other processes, where `cluster` knows of any; ends this one when they do not come.

    Raises `BadInput` when variables are missing or no numbers.
    """
    if joined():
        return
    address, count, index = cluster.explicit() or cluster.detected(JOIN_S) or ("", 1, 0)
    if count == 1:
        return
    where = peers.parsed(address)
    passage = _enter(where, index)
    service = f"127.0.0.1:{peers.free_port()}" if passage is None else "{}:{}".format(*passage.address)
    vain = f"process {index} of {count} waited at {address} for the others in vain; start all of them again"
    patience = threading.Timer(JOIN_S, _end, [vain])
    patience.start()
    try:
        if passage is None:
            _open_door(where, peers.parsed(service))
        jax.distributed.initialize(
            service,
            count,
            index,
            coordinator_bind_address=service,
            initialization_timeout=2 * JOIN_S,  # at which JAX aborts
            heartbeat_timeout_seconds=int(LIMIT_S),  # lifelines end much sooner
        )
        if passage is not None:
            passage.hold(_lost)
    except (ValueError, TypeError) as error:
        raise BadInput(f"process {index} of {count} cannot join at {address}: {_line(error)}") from error
    except (RuntimeError, OSError) as error:
        _end(f"{vain} ({_line(error)})")
    finally:
        patience.cancel()
    threading.Thread(target=_watch, daemon=True, name="watchdog").start()
    _agreeing.start()


def _enter(where: peers.Address, index: int) -> peers.Passage | None:
    """The way to process 0, None in process 0 itself; and JAX made to leave to us what is ours."""
    jax.config.update("jax_enable_preemption_service", False)  # it takes SIGTERM; see `agreed`
    jax.config.update("jax_check_proxy_envs", False)  # gRPC meets its own host only
    os.environ.setdefault("no_grpc_proxy", "127.0.0.1")
    return peers.Passage(where, index) if index else None


def _open_door(where: peers.Address, service: peers.Address) -> None:
    """Listen where the others were told to come: JAX_COORDINATOR_BIND_ADDRESS, or the coordinator's own address."""
    global _door
    bound = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS")
    at = peers.parsed(bound) if bound else peers.listening_at(where)
    try:
        _door = peers.Door(at, service, _lost)
    except OSError as error:
        raise BadInput(
            f"process 0 cannot listen at {at[0]}:{at[1]} ({_line(error)}); use another port"
        ) from error


def joined() -> bool:
    return _client() is not None


def leave(run: Callable[[], int]) -> int:
    """The exit code of `run`; where it failed in this process alone, the others are left at once, and end too."""
    global _leaving
    try:
        code = run()
    except BaseException:
        if not joined():
            raise
        time.sleep(
            LEAVE_S / 2
        )  # a collective fails first where a process is lost: the lifeline says whose fault it was
        traceback.print_exc()
        code = 1
    if joined():
        try:
            _client().wait_at_barrier("collapse/leave", int(LEAVE_S * 1000))
            _leaving = True
            _client().key_value_set("collapse/stop", "0", allow_overwrite=True)
        except jax.errors.JaxRuntimeError:
            _exit(code)
        _agreeing.join(LEAVE_S)  # Python's end is none for a thread that waits in JAX
        if _agreeing.is_alive():
            _exit(code)
    return code


def _lost(number: int) -> None:
    """End this process because another is gone; process 0 tells the rest."""
    if _leaving:
        return
    _end(f"{_who()} has lost process {number}; run the same command again", number)


def _end(line: str, lost: int | None = None) -> NoReturn:
    """Say why and end: neither the others nor JAX's own end, which waits for them, can be waited for."""
    with _last_word:  # those who are told of a loss end as well
        if _door is not None and lost is not None:
            _door.tell(lost)
        print(f"collapse: {line}", file=sys.stderr)
        _exit(1)


def _exit(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


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
        except OSError as error:
            _client().key_value_set(key, json.dumps({"failure": _line(error)}))
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
        if "failure" in said:
            raise Lost(f"{_who()}: process 0 could not go on ({said['failure']})")
        found = said["found"]
    barrier("shared")
    if lead():
        _client().key_value_delete(key)
    return found


def agreed(signum: int | None) -> int | None:
    """The signal for which all processes stop now, None to go on; `signum` is the one that came to this process.

    All ask equally often, and get the same answer to the same question. Nobody waits for a device or the others.
    """
    global _asked, _announced
    alive()
    if signum is not None and not _announced:
        _announced = True
        _client().key_value_set("collapse/stop", str(int(signum)), allow_overwrite=True)
    with _gate:
        _asked += 1
        return _stop[0] if _stop is not None and _asked > _stop[1] else None


def _agree() -> None:
    """Once a process announces a signal: stop after the last question that any of the processes has asked."""
    global _stop
    client, signum = _client(), None
    while signum is None:
        try:
            signum = int(client.blocking_key_value_get("collapse/stop", int(LIMIT_S * 1000)))
        except jax.errors.JaxRuntimeError:  # nothing for so long
            time.sleep(1.0)
    if not signum:  # the end
        return
    with _gate:
        client.key_value_set(f"collapse/asked/{jax.process_index()}", str(_asked))
        wait_ms = int(LIMIT_S * 1000)
        asked = (client.blocking_key_value_get(f"collapse/asked/{i}", wait_ms) for i in range(count()))
        _stop = signum, max(map(int, asked))


_agreeing = threading.Thread(target=_agree, daemon=True, name="agreement")


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
            _end(f"{_who()} has not moved for {still_s:.0f} s; giving up, run the same command again")


def _who() -> str:
    return f"process {jax.process_index()} of {count()} at stage {_stage!r}"


def _client() -> Any:
    from jax._src import distributed  # the only door to barriers that end and to values by name

    return distributed.global_state.client


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
