"""What results were made with: libraries, devices, and weights that were given."""

import hashlib
import platform
from pathlib import Path

import jax

from collapse_jax import __version__, files
from collapse_jax.config import BadInput


def versions() -> dict[str, str]:
    """What the results were made with: recorded, never part of an identity."""
    import flax
    import numpy
    import optax

    return {
        "collapse_jax": __version__,
        "jax": jax.__version__,
        "flax": flax.__version__,
        "optax": optax.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
    }


def device() -> str:
    """The accelerators of this process, in words."""
    found = jax.devices()
    return f"{len(found)} x {found[0].device_kind}"


def weights_digest(init: str) -> str:
    """The identity of a checkpoint folder given as initial weights. Raises `BadInput`."""
    total = hashlib.sha256()
    arrays = [p for p in files.below(Path(init)) if "c" in p.relative_to(init).parts]
    if not arrays:
        raise BadInput(f"config.train.init={init!r} is neither 'fresh', 'parent' nor a checkpoint folder")
    for path in arrays:
        total.update(f"{path.relative_to(init).as_posix()} {files.sha256(path)}\n".encode())
    return total.hexdigest()
