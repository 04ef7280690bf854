"""Named points at which a test kills the process, to prove that a run survives it.

`COLLAPSE_KILL_AT=sample/shard:2` sends SIGKILL to the process as it passes the point `sample/shard` for the
second time. Without the variable a point costs one comparison.
"""

import os
import signal

_target, _, _count = os.environ.get("COLLAPSE_KILL_AT", "").partition(":")
_left = int(_count or 1)


def point(name: str) -> None:
    """Die here, as if the power failed, when the environment asks for it."""
    global _left
    if name != _target:
        return
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
