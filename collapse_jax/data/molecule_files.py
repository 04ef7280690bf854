"""SD and XYZ files as they are met: their dialects read into entries, with a remark on what was made of them."""

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from collapse_jax.config import BadInput
from collapse_jax.data.chemistry import AROMATIC, MAX_NUMBER, STRETCHED, Entry, Refused, contact

if TYPE_CHECKING:
    from rdkit.Chem import Mol

SHORTENED = 0.72  # sums of covalent radii: no bond is shorter; N2's, the shortest, has 0.77
QM9 = re.compile(r"gdb \d+\s")  # how the comment of QM9's own files begins
QM9_LINES = 3  # after the atoms: frequencies, SMILES, InChI
CHARGE = re.compile(r"""(?<!\w)(?:total_|net_)?charge\s*=\s*["']?([+-]?\d+)(?:\.0*)?(?![\w.])""", re.I)
PROPERTIES = re.compile(r"""(?<!\w)properties\s*=\s*["']?([\w:]+)""", re.I)
SPECIES = ("species", "element", "elements", "symbol", "symbols", "z", "numbers", "atomic_numbers")
POSITIONS = ("pos", "position", "positions", "xyz")
ISOTOPES = {"D": "H", "T": "H"}


def sdf(path: Path) -> Iterator[Entry | Refused]:
    """The records of an SD file; equal molecules in several records are conformations of one.

    Bytes that are not UTF-8, as in old titles, become U+FFFD. Flat coordinates count as space where the header says
    3D, or says nothing and the bonds have their lengths. Raises `BadInput` where there is no record.
    """
    from rdkit import Chem, rdBase

    records = 0
    for record in _records(path):
        records += 1
        with rdBase.BlockLogs():
            mol = Chem.MolFromMolBlock(record, sanitize=False, removeHs=False)
        if mol is None:
            yield Refused("a record that RDKit cannot read")
            continue
        remarks = ()
        if not mol.GetNumConformers() or not mol.GetConformer().Is3D():
            if not mol.GetNumConformers() or record.split("\n", 2)[1][20:22].upper() == "2D":
                yield Refused("a record without coordinates in space")
                continue
            if not _flat(mol):
                yield Refused(
                    "flat coordinates that do not fit its bonds (a flat molecule may say 3D in its header)"
                )
                continue
            remarks = (
                "flat coordinates are in space, though the header names no dimension: they fit the bonds",
            )
        name = mol.GetProp("_Name") if mol.HasProp("_Name") else ""
        yield entry(mol, name, mol.GetConformer().GetPositions()[None], remarks)
    if not records:
        raise BadInput(f"{path} has no records in it; give an SD file")


def _records(path: Path) -> Iterator[str]:
    lines: list[str] = []
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            for line in file:
                if line.startswith("$$$$"):
                    yield "".join(lines)
                    lines = []
                else:
                    lines.append(line)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}; check the path") from error
    if any(line.strip() for line in lines):
        yield "".join(lines)


def _flat(mol: "Mol") -> bool:
    """Whether coordinates in a plane may be those of the molecule: a drawing has other lengths or a flat carbon."""
    points = mol.GetConformer().GetPositions()
    apart = contact(np.array([max(atom.GetAtomicNum(), 1) for atom in mol.GetAtoms()]))
    ends = np.array([(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds()], int).reshape(-1, 2).T
    relative = np.linalg.norm(points[ends[0]] - points[ends[1]], axis=-1) / apart[ends[0], ends[1]]
    fits = ((relative >= SHORTENED) & (relative <= STRETCHED)).all()
    return bool(fits) and all(atom.GetDegree() < 4 for atom in mol.GetAtoms())


def entry(mol: "Mol", name: str, positions: np.ndarray, remarks: tuple[str, ...] = ()) -> Entry:
    """The entry that RDKit's molecule is, with other kinds of bond as order 0."""
    from rdkit.Chem import BondType

    orders = {BondType.SINGLE: 1, BondType.DOUBLE: 2, BondType.TRIPLE: 3, BondType.AROMATIC: AROMATIC}
    bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx(), orders.get(b.GetBondType(), 0)) for b in mol.GetBonds()]
    return Entry(
        name,
        np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], int),
        positions,
        np.array(bonds, int).reshape(-1, 3),
        np.array([atom.GetFormalCharge() for atom in mol.GetAtoms()], int),
        remarks=remarks,
    )


def xyz(path: Path) -> Iterator[Entry]:
    """The frames of an XYZ file in Å: a number of atoms, a comment, an element and a position a line.

    The comment may name the columns (`Properties=species:S:1:pos:R:3`, extended XYZ) and the charge (`charge=N`,
    `total_charge=N`; 0 without it). Elements are symbols, atomic numbers or labels (C1); D and T are hydrogen.
    Numbers may have Fortran's exponents (1.0D-3) or QM9's (1.0*^-3), and QM9's lines after the atoms are passed
    over. Raises `BadInput` where the file is damaged.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig", errors="replace")
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}; check the path") from error
    lines = re.split(r"\r\n|\r|\n", text.rstrip())
    start = 0
    while start < len(lines):
        if not lines[start].strip():
            start += 1
            continue
        if not re.fullmatch(r"\s*\d+\s*", lines[start]):
            raise BadInput(f"{path}, line {start + 1}: {lines[start][:40]!r} is no number of atoms; check it")
        stop = start + 2 + int(lines[start])
        if stop > len(lines):
            raise BadInput(f"{path}, line {start + 1}: the file ends within this frame; it is cut short")
        comment = lines[start + 1]
        yield _frame(comment, lines[start + 2 : stop], f"{path}, line", start + 2)
        start = stop + (QM9_LINES if QM9.match(comment) else 0)


def _frame(comment: str, lines: list[str], where: str, first: int) -> Entry:
    """The molecule of a frame; `where` and the number of its comment's line, `first`, are for errors."""
    remarks = set()
    element_at, position_at = 0, 1
    if found := PROPERTIES.search(comment):
        element_at, position_at = _columns(found[1], f"{where} {first}")
        remarks.add(f"columns are those of Properties={found[1]}")
    atoms, positions = [], []
    for number, line in enumerate(lines, first + 1):
        words = line.split()
        try:
            atom, remark = _element(words[element_at])
            x, y, z = map(_number, words[position_at : position_at + 3])
        except (ValueError, KeyError, IndexError) as error:
            raise BadInput(f"{where} {number}: {line[:40]!r} is no element and position") from error
        atoms.append(atom)
        positions.append((x, y, z))
        remarks.add(remark)
    charge = CHARGE.search(comment)
    if charge:
        remarks.add("the comment states the charge")
    if QM9.match(comment):
        remarks.add("QM9's frequencies, SMILES and InChI are not used")
    return Entry(
        comment.strip()[:40],
        np.array(atoms, int),
        np.array(positions, float).reshape(1, -1, 3),
        charge=int(charge[1]) if charge else 0,
        remarks=tuple(sorted(remarks - {""})),
    )


def _columns(properties: str, where: str) -> tuple[int, int]:
    """First column of the element and of the position, from name:kind:count:..."""
    words = properties.lower().split(":")
    places, at = {}, 0
    for name, count in zip(words[::3], words[2::3], strict=False):
        places[name] = at
        at += int(count) if count.isdigit() else 0
    element = next((places[name] for name in SPECIES if name in places), None)
    position = next((places[name] for name in POSITIONS if name in places), None)
    if element is None or position is None:
        raise BadInput(f"{where}: Properties={properties} names no species or no pos; check it")
    return element, position


def _element(word: str) -> tuple[int, str]:
    """Atomic number of a symbol, a number or a label, and a remark ("" for none)."""
    if word.isdigit():
        return int(word), ""
    letters = re.match(r"[A-Za-z]+(?![A-Za-z])", word)
    symbol = letters[0].capitalize() if letters else ""
    number = _numbers()[ISOTOPES.get(symbol, symbol)]
    if symbol in ISOTOPES:
        return number, "D and T are hydrogen"
    return number, "" if len(symbol) == len(word) else "labels such as C1 stand for their elements"


def _number(word: str) -> float:
    return float(re.sub(r"\*\^|[dD]", "e", word))


@functools.cache
def _numbers() -> dict[str, int]:
    """Atomic number by symbol."""
    from rdkit import Chem

    table = Chem.GetPeriodicTable()
    return {table.GetElementSymbol(number): number for number in range(1, MAX_NUMBER + 1)}
