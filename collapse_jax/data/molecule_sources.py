"""Where real molecules come from: conformers made here, npz archives, SDF and XYZ files, TFDS, GEOM.

`open_source("sdf:ligands/*.sdf", ...)` and its like give the entries of a source one after the other, as they are;
`chemistry.checked` says which are molecules.
"""

import glob
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from collapse_jax import files, rng
from collapse_jax.config import BadInput
from collapse_jax.data import alignment, molecule_archives, molecule_files, tfds
from collapse_jax.data.chemistry import Entry, Refused, require
from collapse_jax.data.molecule_files import entry as _entry
from collapse_jax.data.molecule_smiles import SMILES

if TYPE_CHECKING:
    from rdkit.Chem import Mol

KINDS = (
    "builtin:molecules", "npz:FILE", "sdf:GLOB", "xyz:GLOB", "tfds:qm9[:SPLIT]", "geom:DIR", "rows:DIR",
)  # fmt: skip

Entries = Iterator[Entry | Refused]
"""What a source holds, in order; a `Refused` stands for an entry that cannot be read by itself."""

ITERATIONS = 500  # of MMFF: enough for the molecules at hand, and the others are near
SAME = 0.1  # Å over the heavy atoms: conformers nearer than this are one


@dataclass(frozen=True)
class Source:
    """content: bytes that determine the entries. entries: reads them from the start."""

    content: list[bytes]
    entries: Callable[[], Entries]


def problem(source: str) -> str | None:
    """What is wrong with the spelling of a source, or None."""
    kind, _, name = source.partition(":")
    if kind not in {k.partition(":")[0] for k in KINDS} or not name:
        return f"source={source!r} is not one of {', '.join(KINDS)}"
    if kind == "builtin" and name != "molecules":
        return f"source={source!r} is unknown; the only builtin molecules are builtin:molecules"
    return None


def open_source(source: str, conformations: int = 0, data_dir: str = "") -> Source:
    """The entries of a source that `problem` has passed, other than rows:DIR.

    conformations: how many builtin molecules get at most, and how many GEOM's give, the likeliest first
        (0: all). data_dir: where TFDS keeps its files ("": its own default).
    Raises `BadInput` where something is missing, as does reading the entries where it is damaged.
    """
    require()
    kind, _, name = source.partition(":")
    if kind == "builtin":
        return Source([SMILES.encode()], lambda: _conformers(SMILES, conformations))
    if kind == "tfds":
        return _tfds(name, data_dir)
    read = {
        "npz": molecule_archives.npz,
        "sdf": molecule_files.sdf,
        "xyz": molecule_files.xyz,
        "geom": lambda path: molecule_archives.geom(path, conformations),
    }[kind]
    if kind == "npz":
        paths = [Path(name).expanduser()]
    elif kind == "geom":
        paths = molecule_archives.geom_files(name)
    else:
        paths = _matching(kind, name)
    return Source(
        [_digest(path) for path in paths], lambda: (entry for path in paths for entry in read(path))
    )


def _matching(kind: str, pattern: str) -> list[Path]:
    found = sorted(f for f in glob.glob(os.path.expanduser(pattern), recursive=True) if os.path.isfile(f))
    if not found:
        raise BadInput(f"{kind}:{pattern} matches no file; check the path (quote the pattern in the shell)")
    return [Path(f) for f in found]


def _digest(path: Path) -> bytes:
    try:
        return files.sha256(path).encode()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}; check the path") from error


def _conformers(lines: str, count: int) -> Entries:
    """Up to `count` distinct conformers of each "SMILES name" line, by ETKDG and MMFF, always the same ones."""
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

    method = rdDistGeom.ETKDGv3()
    method.randomSeed = rng.integer("conformers")
    method.numThreads = 0
    for line in lines.strip().splitlines():
        smiles, name = line.split()
        with rdBase.BlockLogs():
            mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
            made = list(rdDistGeom.EmbedMultipleConfs(mol, count, method))
            if not made:
                yield Refused("no conformer found by distance geometry")
                continue
            rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(mol, numThreads=0, maxIters=ITERATIONS)
        positions = np.stack([mol.GetConformer(i).GetPositions() for i in made])
        yield _entry(mol, name, positions[_distinct(mol)])


def _distinct(mol: "Mol") -> list[int]:
    """Numbers of the conformers that none before them is the same as."""
    apart = alignment.rmsd(mol)
    kept: list[int] = []
    for i in range(len(apart)):
        if (apart[i, kept] > SAME).all():
            kept.append(i)
    return kept


def _tfds(name: str, data_dir: str) -> Source:
    """QM9 as TFDS has it, and what has its features: atomic numbers as `charges`, `num_atoms`, `positions`."""
    name, split = tfds.name_and_split(name)
    builder = tfds.builder(name, data_dir)
    if not {"charges", "num_atoms", "positions"} <= set(builder.info.features):
        raise BadInput(f"tfds:{name} has no atoms and positions like those of qm9; choose tfds:qm9")
    rows = tfds.rows(builder, split)
    held = sorted(p for p in Path(builder.data_dir).iterdir() if p.is_file())

    def entries() -> Entries:
        for i in range(len(rows)):
            try:
                row: Any = rows[i]
                count = int(row["num_atoms"])
                entry = Entry(str(i), row["charges"][:count], row["positions"][None, :count])
            except Exception as error:  # TFDS raises many kinds
                raise BadInput(tfds.unreadable(f"tfds:{name} split {split!r}, row {i}", error)) from error
            yield entry

    return Source([split.encode(), *map(_digest, held)], entries)
