"""Checkpoints: whole trees of arrays on disk through Orbax, the only file that imports it.

Orbax restores flipped bits without a word, so callers keep the digests of the files (`lineage.Generation`)
and `digest` names the values themselves, whatever devices they were saved from.
"""

import errno
import hashlib
import logging
from collections.abc import Callable
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

logging.getLogger("absl").setLevel(logging.ERROR)
LIMITS = (errno.EMFILE, errno.ENFILE, errno.EIO)


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
    try:
        with _context():
            ocp.save(epath.Path(path.absolute()), _named(tree))
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"checkpoint {path} cannot be written ({_line(error)})") from error


def load(path: Path, abstract: Any) -> Any:
    """Read a tree saved by `save` into the shapes and shardings of `abstract`. Raises `BadInput`."""
    try:
        with _context():
            found = ocp.load(epath.Path(path.absolute()), _named(abstract))
    except (OSError, ValueError, KeyError) as error:
        if (
            "OS error" in str(error) or getattr(error, "errno", None) in LIMITS
        ):  # not the fault of what it holds
            raise OSError(f"checkpoint {path} cannot be read ({_line(error)})") from error
        raise BadInput(
            f"checkpoint {path} cannot be read as this model ({_line(error)}); check the path and the model"
        ) from error
    return jax.tree.unflatten(jax.tree.structure(abstract), [found[name] for name in _named(abstract)])


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


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
