"""Archives of molecules: ragged arrays in an npz file, GEOM's msgpack files. Nothing in them is ever run."""

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from collapse_jax.config import BadInput
from collapse_jax.data.chemistry import Entry

BATCH_BYTES = 1 << 31  # GEOM holds about a thousand molecules in an object


def npz(path: Path) -> Iterator[Entry]:
    """The molecules of ragged arrays: molecule i has the atoms ptr[i]:ptr[i+1].

    Z: atomic numbers. ptr. pos: Å [.., 3], molecule after molecule and in it conformation after conformation.
    Where there are any: n_conf, conformations of each molecule (else one); bonds [.., 3] of two atoms (numbers
    within the molecule) and an order, and bond_ptr; formal_charge of each atom, or charge of each molecule;
    name or smiles, for people. Raises `BadInput` where arrays are missing, damaged or do not fit each other.
    """
    arrays = _arrays(path)
    ptr, pos = arrays["ptr"], arrays["pos"]
    count = len(ptr) - 1
    n_conf = arrays.get("n_conf", np.ones(count, int))
    starts = np.concatenate([[0], np.cumsum(n_conf * np.diff(ptr))])
    names = arrays.get("name", arrays.get("smiles", np.full(count, "")))
    for i in range(count):
        atoms = slice(ptr[i], ptr[i + 1])
        yield Entry(
            str(names[i]),
            arrays["Z"][atoms],
            pos[starts[i] : starts[i + 1]].reshape(n_conf[i], ptr[i + 1] - ptr[i], 3),
            arrays["bonds"][arrays["bond_ptr"][i] : arrays["bond_ptr"][i + 1]] if "bonds" in arrays else None,
            arrays["formal_charge"][atoms] if "formal_charge" in arrays else None,
            int(arrays["charge"][i]) if "charge" in arrays else 0,
        )


def _arrays(path: Path) -> dict[str, np.ndarray]:
    wanted = {"Z", "ptr", "pos", "n_conf", "bonds", "bond_ptr", "formal_charge", "charge", "name", "smiles"}
    try:
        # np.load leaves the file open where it is no archive
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in wanted & set(archive.files)}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"npz:{path} cannot be read ({reason}); give a sound .npz file") from error
    if missing := [name for name in ("Z", "ptr", "pos") if name not in arrays]:
        raise BadInput(f"npz:{path} has no array {missing[0]!r}; molecules need Z, ptr and pos")
    if wrong := next(_misfits(arrays), None):
        raise BadInput(f"npz:{path}: {wrong}; the file is damaged or of another layout")
    return {name: a if a.dtype.kind == "U" else a.astype(_wide(a)) for name, a in arrays.items()}


def _wide(array: np.ndarray) -> type:
    return np.float64 if array.dtype.kind == "f" else np.int64


def _misfits(arrays: dict[str, np.ndarray]) -> Iterator[str]:
    """What keeps the arrays from being cut into molecules."""
    for name, array in arrays.items():
        kinds = {"pos": "f", "name": "US", "smiles": "US"}.get(name, "iu")
        if array.dtype.kind not in kinds:
            yield f"{name} holds {array.dtype}"
    count = len(arrays["ptr"]) - 1 if arrays["ptr"].ndim == 1 else -1
    shapes = {"Z": 1, "ptr": 1, "pos": 2, "bonds": 2}
    for name, array in arrays.items():
        if array.ndim != shapes.get(name, 1) or (array.ndim == 2 and array.shape[1] != 3):
            yield f"{name} has shape {list(array.shape)}"
    if count < 1:
        yield "ptr has no molecule"
    yield from _not_pointers(arrays, "ptr", "Z", count)
    if ("bonds" in arrays) != ("bond_ptr" in arrays):
        yield "bonds and bond_ptr belong together"
    if "bonds" in arrays:
        yield from _not_pointers(arrays, "bond_ptr", "bonds", count)
    for name in {"n_conf", "charge", "name", "smiles"} & set(arrays):
        if len(arrays[name]) != count:
            yield f"{name} has {len(arrays[name]):,} entries and there are {count:,} molecules"
    if len(arrays.get("formal_charge", arrays["Z"])) != len(arrays["Z"]):
        yield f"formal_charge has {len(arrays['formal_charge']):,} entries and Z {len(arrays['Z']):,}"
    if "n_conf" in arrays and arrays["n_conf"].min() < 1:
        yield "n_conf has a molecule without conformations"
    total = int((np.diff(arrays["ptr"].astype(int)) * arrays.get("n_conf", 1)).sum())
    if len(arrays["pos"]) != total:
        yield f"pos has {len(arrays['pos']):,} positions and its molecules need {total:,}"


def _not_pointers(arrays: dict[str, np.ndarray], name: str, to: str, count: int) -> Iterator[str]:
    pointers = arrays[name].astype(int)
    if len(pointers) != count + 1:
        yield f"{name} has {len(pointers):,} entries and there are {count:,} molecules"
    elif pointers[0] != 0 or pointers[-1] != len(arrays[to]) or (np.diff(pointers) < 0).any():
        yield f"{name} does not cut {to} ({len(arrays[to]):,} entries) into parts"


def geom_files(folder: str) -> list[Path]:
    """GEOM's files of plain geometries in a folder, in name order. Raises `BadInput`."""
    root = Path(folder).expanduser()
    found = sorted(p for p in root.glob("*.msgpack") if "featurized" not in p.name)
    if not found:
        raise BadInput(
            f"geom:{folder} has no .msgpack file of geometries; unpack e.g. drugs_crude.msgpack.tar.gz there"
        )
    return found


def geom(path: Path, conformations: int) -> Iterator[Entry]:
    """The molecules of a file of GEOM (Axelrod & Gomez-Bombarelli 2022), their likeliest conformations first.

    The file is a row of objects {SMILES: {"charge", "conformers": [{"xyz": [[Z, x, y, z], ..], "boltzmannweight",
    ..}, ..]}}. Bonds are perceived from the first conformation. Raises `BadInput` where it is damaged.
    """
    done = end = 0
    try:
        with open(path, "rb") as file:
            unpacker = msgpack.Unpacker(file, max_buffer_size=BATCH_BYTES)
            for batch in unpacker:
                for smiles, found in batch.items():
                    yield _geom_entry(smiles, found, conformations)
                    done += 1
                end = unpacker.tell()
        if end != path.stat().st_size:  # the reader just stops where a file is cut short
            raise ValueError("it ends within an object")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, msgpack.UnpackException) as error:
        reason = " ".join(f"{type(error).__name__} {error}".split())[:200]
        raise BadInput(f"{path} is damaged after {done:,} molecules ({reason}); fetch it again") from error


def _geom_entry(smiles: str, found: dict[str, Any], conformations: int) -> Entry:
    ranked = sorted(found["conformers"], key=lambda c: -c["boltzmannweight"])[: conformations or None]
    table = np.array([conformer["xyz"] for conformer in ranked], float)  # [C, n, 4]
    if table.ndim != 3 or table.shape[2] != 4 or (table[:, :, 0] != table[0, :, 0]).any():
        raise ValueError(f"conformations of {smiles[:60]} that differ in their atoms")
    return Entry(smiles, table[0, :, 0], table[:, :, 1:], charge=int(found.get("charge", 0)))
