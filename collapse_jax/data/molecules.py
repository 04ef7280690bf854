"""Molecules into rows: checked, split by molecule, one conformation a row, padded to one number of atoms."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from collapse_jax import rng
from collapse_jax.config import BadInput, identity, number, path
from collapse_jax.data import cache, molecule_sources, splits
from collapse_jax.data.chemistry import Entry, Molecule, Refused, build, checked
from collapse_jax.data.dataset import SPLITS, Dataset
from collapse_jax.data.molecule_sources import Entries
from collapse_jax.data.records import Row, Spec

VERSION = 2  # raise when the same settings and entries would give other rows
NAMES = "molecules.smi"
BLOCK = 32  # molecules whose conformations alternate
SHOWN = 5  # of the entries refused for a reason


@dataclass(frozen=True)
class MoleculeData:
    """Real conformations and how they become rows (see `row_spec`).

    source: builtin:molecules (made here by ETKDG and MMFF), npz:FILE (ragged arrays, see molecule_archives.npz),
        sdf:GLOB, xyz:GLOB (bonds are perceived; dialects: molecule_files), tfds:qm9[:SPLIT], geom:DIR (GEOM's msgpack
        files), or rows:DIR (a directory made by an earlier import; its own settings hold). All need explicit hydrogens.
    max_atoms: larger molecules are left out (0: none are).
    conformations: at most so many of a molecule (0: all); builtin molecules are given up to so many.
    validation, test: shares of the molecules held out, at least one each.
    max_rows: at most so many training rows, of molecules drawn at random, and held-out rows in proportion (0: all).
    data_dir: where tfds keeps its files.
    """

    source: str = path("builtin:molecules")
    max_atoms: int = number(0, 0)
    conformations: int = number(10, 0)
    validation: float = number(0.1, 0.0, 0.9)
    test: float = number(0.1, 0.0, 0.9)
    seed: int = number(0, 0)
    max_rows: int = number(0, 0)
    data_dir: str = path("", identity=False)

    def problems(self) -> Iterator[str]:
        if wrong := molecule_sources.problem(self.source):
            yield wrong
        if self.source.startswith("builtin:") and not self.conformations:
            yield "conformations=0 (all) is no number of conformers to make; give one"
        if self.validation + self.test >= 1:
            yield f"validation={self.validation:g} and test={self.test:g} leave nothing to train on"


def row_spec(max_atoms: int) -> Spec:
    """One conformation of a molecule of `count` atoms, padded with zeros to N = `max_atoms`.

    atoms: atomic numbers, 0 for padding. positions: Å, their mean at the origin. bonds: symmetric, 0 for none,
    else 1, 2, 3 or 4 for aromatic. charges: formal ones. molecule: its number in the data set, the same in every row
    of it and in no other.
    """
    return {
        "atoms": ((max_atoms,), "uint8"),
        "positions": ((max_atoms, 3), "float32"),
        "bonds": ((max_atoms, max_atoms), "uint8"),
        "charges": ((max_atoms,), "int8"),
        "count": ((), "int32"),
        "molecule": ((), "int32"),
    }


def prepare(settings: MoleculeData, store: Path) -> Dataset:
    """The rows of the settings, from `store/data` when they are there and sound, made otherwise.

    Molecules with the same graph are one, whatever their stereo, and stay in one split. In a split molecules stand
    in random order, in blocks whose molecules give a conformation in turn, so that any first part of the rows has
    many molecules and most of their conformations.
    `Dataset.info` adds `max_atoms`, `elements` (atomic numbers, ascending), `sizes` (split -> [atoms, rows] pairs),
    `rejected` (reason -> how many `molecules` and `conformations`, and the `first` of them by index and name), and
    counts `molecules` in each split; the file molecules.smi names them, line i molecule i.
    Raises `BadInput` when the source, the settings or the disk do not allow it.
    """
    if problems := list(settings.problems()):
        raise BadInput("; ".join(problems))
    if settings.source.startswith("rows:"):
        return cache.given(settings.source, row_spec(1))
    source = molecule_sources.open_source(settings.source, settings.conformations, settings.data_dir)
    matter = {**identity(settings), "source": settings.source.partition(":")[0]}
    key = cache.key({"version": VERSION, **matter}, source.content)
    return cache.obtain(store, key, lambda draft: _fill(draft, settings, source.entries()))


@dataclass
class Found:
    """The sound molecules of a source in its order, by SMILES; remarks on how many of its entries; what was refused
    by reason; how much it gave.
    """

    molecules: dict[str, Molecule] = field(default_factory=dict)
    remarks: Counter[str] = field(default_factory=Counter)
    rejected: dict[str, dict[str, Any]] = field(default_factory=dict)
    entries: int = 0
    conformations: int = 0
    lost: int = 0

    def refuse(self, reason: str, where: str, conformations: int) -> None:
        said = self.rejected.setdefault(reason, {"molecules": 0, "conformations": 0, "first": []})
        said["molecules"] += 1
        said["conformations"] += conformations
        if len(said["first"]) < SHOWN:
            said["first"].append(where)

    def notes(self) -> list[str]:
        """What was made of the source, and what was refused, a line each."""
        read = [
            f"in {count:,} of {self.entries:,} entries {remark}" for remark, count in self.remarks.items()
        ]
        return read + ([self.sentence()] if self.rejected else [])

    def sentence(self) -> str:
        """What was refused, in a line."""
        parts = []
        for reason, said in self.rejected.items():
            more = "; ..." if said["molecules"] > len(said["first"]) else ""
            parts.append(f"{said['conformations']:,} for {reason} (in {'; '.join(said['first'])}{more})")
        count = sum(said["conformations"] for said in self.rejected.values())
        return (
            f"rejected {count:,} of {self.conformations:,} conformations, with them {self.lost:,} of "
            f"{self.entries:,} molecules: {', '.join(parts)}"
        )


def collect(entries: Entries, max_atoms: int = 0, conformations: int = 0) -> Found:
    """The sound molecules of a source's entries, equal ones as one with the conformations of all."""
    found = Found()
    for index, entry in enumerate(entries):
        found.entries += 1
        where = f"{index} {entry.name}".strip() if isinstance(entry, Entry) else str(index)
        given = len(entry.positions) if isinstance(entry, Entry) else 1
        found.conformations += given
        try:
            if isinstance(entry, Refused):
                raise entry
            if max_atoms and len(entry.atoms) > max_atoms:
                raise Refused(f"more than max_atoms={max_atoms}")
            found.remarks.update(entry.remarks)
            molecule, bad = checked(entry)
        except Refused as refused:
            found.refuse(str(refused), where, given)
            found.lost += 1
            continue
        for reason, which in bad.items():
            found.refuse(reason, f"{where}: {', '.join(map(str, which[:SHOWN]))}", len(which))
        known = found.molecules.get(molecule.smiles)
        joined = molecule if known is None else _joined(known, molecule)
        kept = joined.positions[: conformations or None]
        found.molecules[molecule.smiles] = replace(joined, positions=kept)
    return found


def _joined(first: Molecule, second: Molecule) -> Molecule:
    """The first molecule with the conformations of both, whose atoms may be numbered differently."""
    like, other = (build(m.atoms, m.bonds, m.charges) for m in (first, second))
    order = list(other.GetSubstructMatch(like))
    return replace(first, positions=np.concatenate([first.positions, second.positions[:, order]]))


def _fill(draft: cache.Draft, settings: MoleculeData, entries: Entries) -> dict[str, Any]:
    import rdkit

    found = collect(entries, settings.max_atoms, settings.conformations)
    if not found.molecules:
        reason = found.sentence() if found.rejected else "it is empty"
        raise BadInput(f"{settings.source} has no molecule to learn from: {reason}")
    names, molecules = list(found.molecules), list(found.molecules.values())
    chosen = _split(settings, names, molecules)
    rows = {split: list(_order(parts)) for split, parts in chosen.items()}
    used = [i for parts in chosen.values() for i, _ in parts]
    max_atoms = max(len(molecules[i].atoms) for i in used)
    elements = sorted({int(z) for i in used for z in np.unique(molecules[i].atoms)})
    for split in SPLITS:
        draft.write_split(split, row_spec(max_atoms), _batches(molecules, rows[split], max_atoms))
    (draft.path / NAMES).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    draft.add(NAMES)
    sizes = {split: Counter(len(molecules[i].atoms) for i, _ in where) for split, where in rows.items()}
    return {
        "source": settings.source,
        "settings": identity(settings),
        "spec": row_spec(max_atoms),
        "max_atoms": max_atoms,
        "elements": elements,
        "sizes": {split: [[n, sizes[split][n]] for n in sorted(sizes[split])] for split in SPLITS},
        "rejected": found.rejected,
        "splits": {split: {"rows": len(rows[split]), "molecules": len(chosen[split])} for split in SPLITS},
        "about": {
            "molecules": f"{len(names):,} of up to {max_atoms} atoms, elements {_symbols(elements)}",
            "made with": f"RDKit {rdkit.__version__}",
        },
        "notes": found.notes(),
    }


def _split(
    settings: MoleculeData, names: list[str], molecules: list[Molecule]
) -> dict[str, list[tuple[int, int]]]:
    """For each split its molecules in order, each with the number of its conformations that are kept."""
    shares = {split: getattr(settings, split) for split in SPLITS[1:]}
    what = f"{settings.source} has {len(names)} molecule(s)"
    found = splits.by_group(names, shares, settings.seed, what)
    train = 1 - sum(shares.values())
    limits = {split: max(1, round(settings.max_rows * shares.get(split, train) / train)) for split in SPLITS}
    chosen = {}
    for k, split in enumerate(SPLITS):
        left = limits[split] if settings.max_rows else np.inf
        chosen[split] = []
        for i in rng.host("molecules", settings.seed, k).permutation(found[split]).tolist():
            take = int(min(len(molecules[i].positions), left))
            if take:
                chosen[split].append((i, take))
                left -= take
    return chosen


def _order(parts: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """(molecule, conformation) of every row."""
    for start in range(0, len(parts), BLOCK):
        block = parts[start : start + BLOCK]
        for conformation in range(max(count for _, count in block)):
            yield from ((i, conformation) for i, count in block if conformation < count)


def _batches(
    molecules: list[Molecule], rows: list[tuple[int, int]], max_atoms: int, size: int = 256
) -> Iterator[Row]:
    for start in range(0, len(rows), size):
        where = rows[start : start + size]
        batch = {
            name: np.zeros((len(where), *shape), dtype)
            for name, (shape, dtype) in row_spec(max_atoms).items()
        }
        for row, (i, conformation) in enumerate(where):
            found, n = molecules[i], len(molecules[i].atoms)
            batch["atoms"][row, :n] = found.atoms
            batch["positions"][row, :n] = found.positions[conformation]
            batch["bonds"][row, :n, :n] = found.bonds
            batch["charges"][row, :n] = found.charges
            batch["count"][row] = n
            batch["molecule"][row] = i
        yield batch


def _symbols(elements: list[int]) -> str:
    from rdkit import Chem

    return " ".join(Chem.GetPeriodicTable().GetElementSymbol(z) for z in elements)
