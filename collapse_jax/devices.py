"""What accelerators can do at best: dense bfloat16 FLOP/s, memory bandwidth and memory, as their makers state."""

import os
from typing import NamedTuple

import jax

from collapse_jax.config import BadInput


class Device(NamedTuple):
    """flops: a second; bandwidth: bytes a second; memory: bytes."""

    flops: float
    bandwidth: float
    memory: float


GB = 1e9
DEVICES = {
    "v4": Device(275e12, 1228 * GB, 32 * GB),
    "v5e": Device(197e12, 819 * GB, 16 * GB),
    "v5p": Device(459e12, 2765 * GB, 95 * GB),
    "v6e": Device(918e12, 1640 * GB, 32 * GB),
    "A100": Device(312e12, 2039 * GB, 80 * GB),
    "H100": Device(989e12, 3350 * GB, 80 * GB),
    "H200": Device(989e12, 4800 * GB, 141 * GB),
    "B200": Device(2250e12, 8000 * GB, 180 * GB),
}
KINDS = {"v5 lite": "v5e", "v6 lite": "v6e", "v5": "v5p"}  # how JAX calls some of them, longest first


def named(name: str) -> Device:
    """The device of that name. Raises `BadInput`."""
    if name not in DEVICES:
        raise BadInput(f"device {name!r} is not in the table; choose one of {', '.join(DEVICES)}")
    return DEVICES[name]


def of_kind(kind: str) -> Device | None:
    """The device that JAX describes as `kind`, e.g. "NVIDIA H200" or "TPU v5 lite"; None when unknown."""
    for name in DEVICES:
        if name.lower() in kind.lower():
            return DEVICES[name]
    return next((DEVICES[name] for part, name in KINDS.items() if part in kind), None)


def memory() -> float:
    """Bytes that all devices of all processes have together; those of a CPU are its host's."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return float(stats["bytes_limit"] * jax.device_count())
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * jax.process_count())


def refuse_larger(needed: float, what: str, lower: str) -> None:
    """Raises `BadInput` when `needed` bytes of something cannot lie in all devices together."""
    if needed > (there := memory()):
        raise BadInput(
            f"{what} takes {needed / GB:,.1f} GB and there are {there / GB:,.1f} GB; lower {lower}"
        )
