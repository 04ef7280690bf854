"""Files that are either whole or absent: atomic JSON, digests, setting damaged things aside."""

import errno
import hashlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from collapse_jax import faults
from collapse_jax.config import BadInput


def write_text(path: Path, text: str) -> None:
    """Write aside, flush to disk, rename into place."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "w", encoding="utf-8") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        faults.point(f"write/{path.name}")
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Atomically write strict JSON (sorted keys; NaN and infinities become null)."""
    write_text(path, json.dumps(finite(value), indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON. Raises `BadInput` naming the file when it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{path} is missing") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is damaged ({error}); set it aside and run again") from None


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
    """Whether a file is there with the size (and digest) its manifest gives."""
    try:
        return path.stat().st_size == said["bytes"] and (not contents or sha256(path) == said["sha256"])
    except OSError:
        return False


def below(folder: Path) -> Iterator[Path]:
    """Every file below a folder, in name order."""
    return (p for p in sorted(folder.rglob("*")) if p.is_file())


def set_aside(path: Path, why: str) -> Path:
    """Rename to the first free `NAME.WHY-N` beside it; nothing is deleted."""
    for n in range(1_000_000):
        target = path.with_name(f"{path.name}.{why}-{n}")
        if not target.exists():
            os.rename(path, target)
            return target
    raise RuntimeError(f"{path}: a million things were set aside already")


def make_folder(path: Path) -> None:
    """Create a folder that can be written to. Raises `BadInput`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise BadInput(
            f"cannot write in {path} ({error.strerror}); choose another --workdir or --store"
        ) from None
