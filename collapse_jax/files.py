"""Files that are either whole or absent, and the one door to the disk: atomic writes, seals, removal, setting aside.

Nothing is written, emptied or removed through a link: a working folder may be reached by one, but what lies in it
must lie in it (`inside`).
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from collapse_jax import faults
from collapse_jax.config import BadInput

MISSING = (FileNotFoundError, NotADirectoryError)
_reading: ContextVar[bool] = ContextVar("reading", default=False)


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Nothing is written, renamed or removed by this module within: what would have to be made is refused."""
    before = _reading.set(True)
    try:
        yield
    finally:
        _reading.reset(before)


def inside(root: Path, path: Path) -> Path:
    """The path, when no symbolic link below `root` is on the way to it. Raises `BadInput` naming the link."""
    if not path.is_relative_to(root) or ".." in path.relative_to(root).parts:
        raise BadInput(f"{path} is a path outside {root}; it is not trusted")
    place = root
    for part in path.relative_to(root).parts:
        place = place / part
        _refuse_link(place)
    return path


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise BadInput(
            f"{path} is a symbolic link to {os.readlink(path)}, and nothing is written or removed through links; "
            "put the folder or file itself there, or give another --workdir or --store"
        )


def _writable(path: Path) -> None:
    if _reading.get():
        raise BadInput(f"{path} is missing or damaged; run the experiment again to make it")
    _refuse_link(path)


def write_bytes(path: Path, data: bytes | memoryview, flush: bool = True) -> None:
    """Write aside, flush to disk unless it is easily made again, rename into place."""
    _writable(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        aside.unlink(missing_ok=True)  # of a dead process with this number, or a link
        with open(aside, "xb") as f:
            f.write(data)
            if flush:
                f.flush()
                os.fsync(f.fileno())
        faults.point(f"write/{path.name}")
        os.replace(aside, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # writing itself names no file
        raise
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Atomically write strict JSON (sorted keys; NaN and infinities become null)."""
    write_text(path, json.dumps(finite(value), indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON. Raises `BadInput` naming the file when it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except MISSING:
        raise BadInput(f"{path} is missing") from None
    except (ValueError, RecursionError, IsADirectoryError) as error:
        raise BadInput(f"{path} is damaged ({error}); set it aside and run again") from None


def sealed(value: dict[str, Any]) -> dict[str, Any]:
    """A JSON object with its own digest, so that a flipped bit or an edit in it is noticed too."""
    plain = finite({k: v for k, v in value.items() if k != "seal"})
    return plain | {"seal": hashlib.sha256(canonical(plain)).hexdigest()}


def unsealed(path: Path) -> dict[str, Any]:
    """Read what `sealed` made. Raises `BadInput` when it is missing, damaged or was never sealed."""
    value = read_json(path)
    if isinstance(value, dict) and "seal" not in value:
        raise BadInput(
            f"{path} has no seal: a version of collapse_jax without seals made it, or it was edited"
        )
    if not isinstance(value, dict) or sealed(value)["seal"] != value["seal"]:
        raise BadInput(f"{path} is damaged: it does not match its seal")
    return value


def finite(value: Any) -> Any:
    """The value with every float that JSON cannot hold replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return value


def canonical(value: Any) -> bytes:
    """The one byte string of a JSON value, for hashing."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def entry(path: Path) -> dict[str, Any]:
    """What a manifest says of a file."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def matches(path: Path, said: dict[str, Any], contents: bool = True) -> bool:
    """Whether a file is there with the size (and digest) its manifest gives.

    Raises `OSError` where that cannot be told: no descriptors left, no permission.
    """
    try:
        return path.stat().st_size == said["bytes"] and (not contents or sha256(path) == said["sha256"])
    except (*MISSING, IsADirectoryError):
        return False
    except OSError as error:
        if error.errno == errno.EIO:  # the disk has lost it
            return False
        raise


def below(folder: Path) -> Iterator[Path]:
    """Every file below a folder, in name order."""
    return (p for p in sorted(folder.rglob("*")) if p.is_file())


def remove(root: Path, path: Path) -> None:
    """Remove a file or folder that lies below `root`, if it is there. Raises `BadInput` where a link leads to it."""
    _writable(inside(root, path))
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def set_aside(path: Path, why: str) -> Path:
    """Rename to the first free `NAME.WHY-N` beside it; nothing is deleted. Raises `BadInput` for a link."""
    _writable(path)
    for n in range(1_000_000):
        target = path.with_name(f"{path.name}.{why}-{n}")
        if not os.path.lexists(target):
            os.rename(path, target)
            return target
    raise RuntimeError(f"{path}: a million things were set aside already")


def make_folder(path: Path) -> None:
    """Create a folder that can be written to. Raises `BadInput`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe.{os.getpid()}"
        probe.unlink(missing_ok=True)
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE):
            raise
        raise BadInput(
            f"cannot write in {path} ({error.strerror}); choose another --workdir or --store"
        ) from None
