"""Molecules between arrays and RDKit: checked where a source gives them, named, built anew from rows.

What the arrays of a molecule must satisfy is written here, with every reason to refuse one. RDKit is imported
only when it is needed; it comes with the extra `molecules`.
"""

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from collapse_jax.config import BadInput

if TYPE_CHECKING:
    from rdkit.Chem import Mol

AROMATIC = 4
MAX_NUMBER = 118  # the last element
STRETCHED = 1.3  # sums of covalent radii: what is longer is no bond; real ones reach 1.2
TOUCHING = 1.05  # sums of covalent radii: what is nearer is bonded; real atoms that are not keep 1.1 and more
CLOSEST = 0.5  # Å
PERCEPTION_STEPS = 1000


class Refused(ValueError):
    """A molecule cannot be what its source says; the message is the reason, the same for all of its kind."""


@dataclass(frozen=True)
class Entry:
    """A molecule as a source gives it, of unknown quality.

    atoms: atomic numbers [n]. positions: Å [C, n, 3], a conformation or more. bonds: [m, 3] of two atoms and an
    order (1, 2, 3, or 4 for aromatic); None where geometry must tell. charges: formal ones [n], which need
    bonds; None where `charge`, that of the whole, must do. remarks: what was made of it that another might not,
    a clause each, the same for all of its kind.
    """

    name: str
    atoms: np.ndarray
    positions: np.ndarray
    bonds: np.ndarray | None = None
    charges: np.ndarray | None = None
    charge: int = 0
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Molecule:
    """A sound molecule and its conformations.

    smiles: canonical, without stereo, so equal wherever the graphs are. atoms: uint8 [n]. bonds: uint8 [n, n],
    0 for none, else 1, 2, 3 or `AROMATIC`. charges: int8 [n]. positions: float32 Å [C, n, 3], centred.
    """

    smiles: str
    atoms: np.ndarray
    bonds: np.ndarray
    charges: np.ndarray
    positions: np.ndarray


def require() -> None:
    """Raises `BadInput` where RDKit is not installed."""
    try:
        import rdkit.Chem  # noqa: F401
    except ImportError as error:
        raise BadInput(
            "molecules need RDKit; install it with pip install 'collapse_jax[molecules]'"
        ) from error


def build(
    atoms: np.ndarray, bonds: np.ndarray, charges: np.ndarray, positions: np.ndarray | None = None
) -> "Mol":
    """RDKit's molecule of arrays as in `Molecule`, with positions [C, n, 3] as its conformers 0, 1, ...

    Raises `Refused` where RDKit finds a valence, charge or aromatic ring impossible.
    """
    first, second = np.nonzero(np.triu(bonds))
    mol = _plain(atoms, np.stack([first, second, bonds[first, second]], 1), charges)
    _sanitize(mol)
    return mol if positions is None else pose(mol, positions)


def pose(mol: "Mol", positions: np.ndarray) -> "Mol":
    """The molecule with positions [C, n, 3] as its conformers, in place of those it has."""
    from rdkit import Chem

    mol = Chem.Mol(mol)
    mol.RemoveAllConformers()
    for points in np.asarray(positions, float):
        conformer = Chem.Conformer(len(points))
        conformer.SetPositions(np.ascontiguousarray(points))
        mol.AddConformer(conformer, assignId=True)
    return mol


def name(mol: "Mol") -> str:
    """Canonical SMILES without stereo and hydrogens."""
    from rdkit import Chem

    return Chem.MolToSmiles(Chem.RemoveHs(mol), isomericSmiles=False)


def checked(entry: Entry) -> tuple[Molecule, dict[str, list[int]]]:
    """The molecule of an entry with its sound conformations; the indices of the others by reason.

    Raises `Refused` where the molecule is impossible or no conformation is sound.
    """
    from rdkit import rdBase

    atoms, positions = _atoms(entry.atoms), np.asarray(entry.positions, float)
    finite = np.flatnonzero(np.isfinite(positions).all((1, 2)))
    if not len(finite):
        raise Refused("coordinates that are not finite")
    with rdBase.BlockLogs():
        mol = _perceived(entry, atoms, positions[finite[0]])
        bonds, charges, smiles = _bonds(mol), _charges(mol), name(mol)
        if name(build(atoms, bonds, charges)) != smiles:
            raise Refused("an aromatic ring that cannot be written as one")
    bad = {"coordinates that are not finite": np.setdiff1d(np.arange(len(positions)), finite).tolist()}
    good = np.ones(len(finite), bool)
    for reason, wrong in impossible(atoms, bonds, positions[finite]).items():
        bad[reason] = finite[wrong & good].tolist()
        good &= ~wrong
    bad = {reason: where for reason, where in bad.items() if where}
    if not good.any():
        raise Refused(max(bad, key=lambda reason: len(bad[reason])))
    kept = positions[finite[good]]
    centred = (kept - kept.mean(1, keepdims=True)).astype(np.float32)
    return Molecule(smiles, atoms, bonds, charges, centred), bad


def impossible(atoms: np.ndarray, bonds: np.ndarray, positions: np.ndarray) -> dict[str, np.ndarray]:
    """Reason -> bool [C]: what rules out each conformation of positions [C, n, 3] (finite)."""
    apart = distances(positions)
    relative = apart / contact(atoms)
    bonded, other = bonds > 0, (bonds == 0) & ~np.eye(len(atoms), dtype=bool)
    return {
        f"atoms closer than {CLOSEST} Å": np.any(apart[:, bonded | other] < CLOSEST, axis=1),
        "bonded atoms too far apart": np.any(relative[:, bonded] > STRETCHED, axis=1),
        "atoms at bonding distance without a bond": np.any(relative[:, other] < TOUCHING, axis=1),
    }


def distances(positions: np.ndarray) -> np.ndarray:
    """Å [C, n, n] between the atoms of positions [C, n, 3]."""
    return np.linalg.norm(positions[:, :, None] - positions[:, None], axis=-1)


def contact(atoms: np.ndarray) -> np.ndarray:
    """Sum of covalent radii, Å, for every pair of atoms [n, n]."""
    radii = _radii()[atoms]
    return radii[:, None] + radii


@functools.cache
def _radii() -> np.ndarray:
    """Covalent radii, Å, by atomic number (Cordero et al. 2008)."""
    from rdkit import Chem

    table = Chem.GetPeriodicTable()
    return np.array([np.nan, *(table.GetRcovalent(number) for number in range(1, MAX_NUMBER + 1))])


def _atoms(atoms: np.ndarray) -> np.ndarray:
    atoms = np.asarray(atoms)
    if len(atoms) < 2:
        raise Refused("fewer than 2 atoms")
    if not (np.mod(atoms, 1) == 0).all() or not 1 <= atoms.min() <= atoms.max() <= MAX_NUMBER:
        raise Refused(f"an atomic number outside 1..{MAX_NUMBER}")
    return atoms.astype(np.uint8)


def _perceived(entry: Entry, atoms: np.ndarray, points: np.ndarray) -> "Mol":
    """The sanitised molecule: as the entry says, completed by what RDKit perceives where it is silent.

    Bond orders that come without charges often describe none that exists (four bonds at a neutral nitrogen);
    then the bonds count and their orders are perceived.
    """
    from rdkit import Chem
    from rdkit.Chem import rdDetermineBonds

    neutral = np.zeros(len(atoms), np.int8)
    if entry.bonds is None:
        mol = pose(_plain(atoms, np.empty((0, 3), int), neutral), points[None])
        rdDetermineBonds.DetermineConnectivity(mol, charge=entry.charge)
    else:
        bonds = _bond_list(entry.bonds, len(atoms))
        mol = pose(_plain(atoms, bonds, neutral if entry.charges is None else entry.charges), points[None])
    if len(Chem.GetMolFrags(mol)) > 1:
        raise Refused("atoms that are not bonded to the rest")
    if entry.bonds is not None and (entry.charges is not None or entry.charge == 0):
        try:
            _sanitize(mol)
            return _paired(mol)
        except Refused:
            if entry.charges is not None:
                raise
    try:
        rdDetermineBonds.DetermineBondOrders(
            mol, charge=int(entry.charge), embedChiral=False, maxIterations=PERCEPTION_STEPS
        )
    except ValueError as error:
        raise Refused("no bond orders fit its atoms, bonds and charge") from error
    _sanitize(mol)
    return _paired(mol)


def _plain(atoms: np.ndarray, bonds: np.ndarray, charges: np.ndarray) -> "Mol":
    from rdkit import Chem

    kinds = (None, Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE, Chem.BondType.AROMATIC)
    mol = Chem.RWMol()
    for number, charge in zip(atoms.tolist(), np.asarray(charges).tolist(), strict=True):
        atom = Chem.Atom(number)
        atom.SetNoImplicit(True)
        atom.SetFormalCharge(charge)
        mol.AddAtom(atom)
    for first, second, order in bonds.tolist():
        mol.AddBond(first, second, kinds[order])
    return mol.GetMol()


def _sanitize(mol: "Mol") -> None:
    from rdkit import Chem

    try:
        Chem.SanitizeMol(mol)
    except ValueError as error:
        raise Refused("an impossible valence, charge or aromatic ring") from error


def _paired(mol: "Mol") -> "Mol":
    if any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()):
        raise Refused("unpaired electrons (hydrogens missing, or a wrong bond order or charge)")
    return mol


def _bond_list(bonds: np.ndarray, atoms: int) -> np.ndarray:
    bonds = np.asarray(bonds, int).reshape(-1, 3)
    ends = np.sort(bonds[:, :2], 1)
    if (ends < 0).any() or (ends >= atoms).any():
        raise Refused("a bond to an atom that is not there")
    if (ends[:, 0] == ends[:, 1]).any() or len(np.unique(ends, axis=0)) < len(ends):
        raise Refused("a bond of an atom to itself, or listed twice")
    if not np.isin(bonds[:, 2], (1, 2, 3, AROMATIC)).all():
        raise Refused("a bond order that is not 1, 2, 3 or aromatic")
    return bonds


def _bonds(mol: "Mol") -> np.ndarray:
    """uint8 [n, n]: the orders, aromatic ones as `AROMATIC`."""
    bonds = np.zeros((mol.GetNumAtoms(), mol.GetNumAtoms()), np.uint8)
    for bond in mol.GetBonds():
        order = AROMATIC if bond.GetIsAromatic() else int(bond.GetBondTypeAsDouble())
        ends = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        bonds[ends], bonds[ends[::-1]] = order, order
    return bonds


def _charges(mol: "Mol") -> np.ndarray:
    return np.array([atom.GetFormalCharge() for atom in mol.GetAtoms()], np.int8)
