"""Molecules as people look at them: drawn flat, seen from two sides in space, and named in a line."""

import base64
import io
from collections.abc import Mapping

import numpy as np

from collapse_jax.data import chemistry
from collapse_jax.data.records import Row

COLUMNS = 6  # molecules in a picture
CELL, DPI = 1.7, 110  # inches, pixels per inch
COLOURS = {
    1: "#b9bec4", 5: "#e0a48b", 6: "#3b4149", 7: "#3b62d6", 8: "#d63a30", 9: "#5fae3c", 14: "#b8a27a",
    15: "#e08a1e", 16: "#d1a90f", 17: "#2f9e44", 35: "#8c3b1f", 53: "#7b2fa0",
}  # fmt: skip
OTHER = "#c2558f"


def lines(batch: Row) -> list[str]:
    """For each row the formula, the SMILES and the number of atoms of its molecule."""
    from rdkit.Chem import rdMolDescriptors

    found = []
    for row in range(len(batch["count"])):
        mol = _mol(batch, row)
        formula = rdMolDescriptors.CalcMolFormula(mol)
        found.append(f"{formula}  {chemistry.name(mol)}  {mol.GetNumAtoms()} atoms")
    return found


def gallery(real: Row, others: Mapping[str, Row]) -> str:
    """Base64 PNG: a column for each of the first `COLUMNS` rows, which are the same molecules in every batch.

    At the top the molecule drawn flat, below it the real conformation and one of each other batch (title -> rows),
    turned onto the real one, from the front and from above: along the third and second principal axis of the real
    one.
    """
    from matplotlib.figure import Figure
    from rdkit.Chem import rdMolDescriptors

    columns = min(COLUMNS, len(real["count"]))
    named = {"real": real, **others}
    lines = 1 + 2 * len(named)
    figure = Figure((CELL * columns, CELL * lines), dpi=DPI)

    def cell(line: int, column: int, title: str):
        axis = figure.add_axes((column / columns, 1 - (line + 1) / lines, 1 / columns, 1 / lines))
        axis.set_axis_off()
        axis.text(0.02, 0.97, title, fontsize=8, va="top", transform=axis.transAxes)
        return axis

    for column in range(columns):
        mol = _mol(real, column)
        _flat(cell(0, column, rdMolDescriptors.CalcMolFormula(mol)), mol)
        target = _points(real, column)
        frame = np.linalg.svd(target, full_matrices=True)[2]  # rows: principal axes, the widest first
        for place, (title, batch) in enumerate(named.items()):
            points = turned(_points(batch, column), target) @ frame.T
            for view, shown in enumerate(([0, 1, 2], [0, 2, 1])):
                side = "" if column else f"{title}, {('front', 'above')[view]}"
                axis = cell(1 + 2 * place + view, column, side)
                _space(axis, points[:, shown], batch["atoms"][column], batch["bonds"][column])
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return base64.b64encode(stream.getvalue()).decode()


def turned(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Points [n, 3] moved and turned (not mirrored) to lie nearest to the target [n, 3] (Kabsch 1976)."""
    centre, aim = points.mean(0), target.mean(0)
    left, _, right = np.linalg.svd((points - centre).T @ (target - aim))
    left[:, -1] *= np.sign(np.linalg.det(left @ right))
    return (points - centre) @ left @ right + aim


def _mol(batch: Row, row: int):
    n = int(batch["count"][row])
    return chemistry.build(batch["atoms"][row, :n], batch["bonds"][row, :n, :n], batch["charges"][row, :n])


def _points(batch: Row, row: int) -> np.ndarray:
    """Centred positions [n, 3]; what is not finite is drawn at the origin."""
    points = np.nan_to_num(
        batch["positions"][row, : int(batch["count"][row])].astype(float), posinf=0, neginf=0
    )
    return points - points.mean(0)


def _flat(axis, mol) -> None:
    from matplotlib.image import imread
    from rdkit import Chem
    from rdkit.Chem.Draw import rdMolDraw2D

    side = int(CELL * DPI)
    drawer = rdMolDraw2D.MolDraw2DCairo(side, side)
    options = drawer.drawOptions()
    options.clearBackground, options.fixedBondLength = False, side / 6  # small molecules are not blown up
    rdMolDraw2D.PrepareAndDrawMolecule(drawer, Chem.RemoveHs(mol))
    drawer.FinishDrawing()
    axis.imshow(imread(io.BytesIO(drawer.GetDrawingText()), format="png"))


def _space(axis, points: np.ndarray, atoms: np.ndarray, bonds: np.ndarray) -> None:
    """Atoms and bonds at the first two coordinates; the third is height, higher ones in front."""
    from matplotlib.collections import LineCollection

    n = len(points)
    first, second = np.nonzero(np.triu(bonds[:n, :n]))
    middle = (points[first] + points[second]) / 2
    halves = np.stack([np.concatenate([points[first], points[second]]), np.tile(middle, (2, 1))], 1)
    ends = np.concatenate([first, second])
    order = np.argsort(halves[:, :, 2].mean(1))
    colours = [COLOURS.get(int(z), OTHER) for z in atoms[:n]]
    axis.add_collection(
        LineCollection(list(halves[order, :, :2]), colors=[colours[i] for i in ends[order]], linewidths=1.6)
    )
    order = np.argsort(points[:, 2])
    sizes = np.where(atoms[:n] == 1, 7, 20)
    axis.scatter(*points[order, :2].T, s=sizes[order], c=[colours[i] for i in order], zorder=3, linewidths=0)
    reach = max(1.5, float(np.abs(points[:, :2]).max()) + 0.5)
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
