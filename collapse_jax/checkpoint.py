"""Checkpoints: whole trees of arrays on disk through Orbax, the only file that imports it.

Orbax restores flipped bits without a word, so callers keep the digests of the files (`lineage.Generation`)
and `digest` names the values themselves, whatever devices they were saved from.
"""

import contextlib
import errno
import gc
import hashlib
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from orbax.checkpoint import v1 as ocp

from collapse_jax import processes
from collapse_jax.config import BadInput

logging.getLogger("absl").setLevel(logging.CRITICAL)  # what goes wrong is raised as well
LIMITS = (errno.EMFILE, errno.ENFILE, errno.EIO)
DESCRIPTORS = 16  # that saving needs at least
SETTLE_S = 0.5  # for which threads of a failed write may still complain


def _context() -> ocp.Context:
    options = ocp.options
    return ocp.Context(
        # One file per array: for models under a billion weights about twice as fast as OCDBT.
        array_options=options.ArrayOptions(saving=options.ArrayOptions.Saving(use_ocdbt=False)),
        atomicity_options=options.AtomicityOptions(mode=options.AtomicityMode.COMMIT_FILE),
    )


def save(path: Path, tree: Any) -> None:
    """Write a tree of arrays (NNX modules are trees) to a new folder; returns when it is on disk.

    Raises `OSError` where the disk does not take it: TensorStore has kinds of errors of its own.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as opened:  # an event loop that finds no descriptors cannot even be closed
        for _ in range(DESCRIPTORS):
            opened.enter_context(open(os.devnull, "rb"))
    with _quiet():
        try:
            with _context():
                ocp.save(epath.Path(path.absolute()), _named(tree))
            return
        except Exception as error:
            line = _line(error, path)
        # Not out of the handler above: the error would keep alive what complains when it is thrown away.
        gc.collect()
        time.sleep(SETTLE_S)
    raise OSError(f"checkpoint {path} cannot be written ({line})")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Threads and coroutines that a failed write leaves behind print no tracebacks of their own within."""
    hooks = sys.excepthook, sys.unraisablehook
    sys.excepthook = sys.unraisablehook = lambda *_: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            yield
    finally:
        sys.excepthook, sys.unraisablehook = hooks


def load(path: Path, abstract: Any) -> Any:
    """Read a tree saved by `save` into the shapes and shardings of `abstract`. Raises `BadInput`."""
    try:
        with _context():
            found = ocp.load(epath.Path(path.absolute()), _named(abstract))
    except (OSError, ValueError, KeyError) as error:
        if (
            "OS error" in str(error) or getattr(error, "errno", None) in LIMITS
        ):  # not the fault of what it holds
            raise OSError(f"checkpoint {path} cannot be read ({_line(error, path)})") from error
        raise BadInput(
            f"checkpoint {path} cannot be read as this model ({_line(error, path)}); check the path and the model"
        ) from error
    return jax.tree.unflatten(jax.tree.structure(abstract), [found[name] for name in _named(abstract)])


def _line(error: Exception, path: Path) -> str:
    return " ".join(str(error).split()).replace(str(path.absolute()), path.name)[:400]


def _named(tree: Any) -> dict[str, Any]:
    """The leaves by their paths: Orbax cannot read back trees whose nodes mix names and numbers."""
    return {
        jax.tree_util.keystr(p, simple=True, separator="."): x for p, x in jax.tree.leaves_with_path(tree)
    }


def abstract(make: Callable[[], Any], mesh: Mesh) -> Any:
    """Shapes, dtypes and shardings of what `make` would build; scalars are replicated."""

    def leaf(x: Any) -> jax.ShapeDtypeStruct:
        spec = x.sharding.spec if x.sharding is not None else P()
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree.map(leaf, jax.eval_shape(make))


def digest(tree: Any) -> str:
    """SHA-256 over the paths, types and values of every array of a tree."""
    total = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(tree):
        array = processes.whole(leaf)
        total.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()
