"""Bond lengths, angles and torsions of conformations: how their distributions differ, what is impossible in them."""

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from collapse_jax.data.chemistry import MAX_NUMBER, impossible

KINDS = ("bond", "angle", "torsion")
ORDERS = " -=#:"
TOLERANCE = 0.1  # of a bond length beyond the real range of its type
BINS, MARGIN = 40, 0.15  # of a histogram; Å beside the real range
COMMONEST = 4  # bond types that get one


@dataclass(frozen=True)
class Ensemble:
    """Conformations of one molecule: atoms [n], bonds [n, n], charges [n] (see `data.molecules.row_spec`).

    positions: Å [C, n, 3].
    """

    atoms: np.ndarray
    bonds: np.ndarray
    charges: np.ndarray
    positions: np.ndarray


@dataclass(frozen=True)
class Coordinates:
    """Internal coordinates of one kind: their types, e.g. "C-C=O", and which atoms [m, 2..4] each is of."""

    types: list[str]
    atoms: np.ndarray


def internal(atoms: np.ndarray, bonds: np.ndarray) -> dict[str, Coordinates]:
    """The bonds, angles and torsions of a molecule.

    A type is the elements along the bonds with their orders (- = # and : for aromatic), in the one of its two
    directions that sorts first. Torsions are those of heavy atoms; a triple bond, in line with its neighbours, has
    none.
    """
    near = [np.flatnonzero(row).tolist() for row in bonds]
    pairs = [(i, j) for i in range(len(atoms)) for j in near[i] if i < j]
    angles = [(i, j, k) for j in range(len(atoms)) for i in near[j] for k in near[j] if i < k]
    heavy = atoms > 1
    torsions = [
        (i, j, k, m)
        for j, k in pairs
        for i in near[j]
        for m in near[k]
        if len({i, j, k, m}) == 4
        and heavy[[i, j, k, m]].all()
        and 3 not in (bonds[i, j], bonds[j, k], bonds[k, m])
    ]
    return {
        kind: Coordinates(
            [_type(atoms, bonds, path) for path in paths], np.array(paths, int).reshape(-1, 2 + more)
        )
        for more, (kind, paths) in enumerate(zip(KINDS, (pairs, angles, torsions), strict=True))
    }


def _type(atoms: np.ndarray, bonds: np.ndarray, path: tuple[int, ...]) -> str:
    def read(path: tuple[int, ...]) -> str:
        links = [ORDERS[bonds[i, j]] for i, j in itertools.pairwise(path)]
        return "".join(link + symbols()[atoms[i]] for link, i in zip(["", *links], path, strict=True))

    return min(read(path), read(path[::-1]))


@functools.cache
def symbols() -> list[str]:
    """Symbol of every element by atomic number."""
    from rdkit import Chem

    return ["", *(Chem.GetPeriodicTable().GetElementSymbol(number) for number in range(1, MAX_NUMBER + 1))]


def values(kind: str, positions: np.ndarray, atoms: np.ndarray) -> np.ndarray:
    """[C, m] of positions [C, n, 3] at atoms [m, 2..4]: lengths in Å, angles or torsions without sign in degrees.

    Without its sign a torsion is the same in the mirror image.
    """
    points = [positions[:, column] for column in atoms.T]
    if kind == "bond":
        return np.linalg.norm(points[1] - points[0], axis=-1)
    if kind == "angle":
        return _angle(points[0] - points[1], points[2] - points[1])
    first, axis, last = (b - a for a, b in itertools.pairwise(points))
    return _angle(np.cross(first, axis), np.cross(axis, last))


def finite(positions: np.ndarray) -> np.ndarray:
    """bool [C]: which of positions [C, n, 3] have neither nan nor infinity."""
    return np.all(np.isfinite(positions), axis=(1, 2))


def _angle(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Degrees between vectors [..., 3], precise at 0 and 180 too."""
    across = np.linalg.norm(np.cross(first, second), axis=-1)
    return np.degrees(np.arctan2(across, (first * second).sum(-1)))


@dataclass(frozen=True)
class Spread:
    """Values of internal coordinates of one type, each with its weight."""

    values: np.ndarray
    weights: np.ndarray


Spreads = dict[str, dict[str, Spread]]
"""Kind -> type -> its values."""


def spreads(ensembles: Iterable[Ensemble]) -> Spreads:
    """The internal coordinates of all conformations; every molecule weighs the same."""
    parts: dict[str, dict[str, list]] = {kind: {} for kind in KINDS}
    for ensemble in ensembles:
        count = len(ensemble.positions)
        for kind, found in internal(ensemble.atoms, ensemble.bonds).items():
            values_Cm = values(kind, ensemble.positions.astype(float), found.atoms)
            for name in sorted(set(found.types)):
                column = values_Cm[:, [t == name for t in found.types]].ravel()
                parts[kind].setdefault(name, []).append((column, np.full(len(column), 1 / max(count, 1))))
    return {
        kind: {name: Spread(*map(np.concatenate, zip(*some, strict=True))) for name, some in by_type.items()}
        for kind, by_type in parts.items()
    }


def distance(samples: Mapping[str, Spread], real: Mapping[str, Spread]) -> float:
    """Wasserstein-1 distance between sampled and real values of a type, averaged over types by their real weight.

    Types with no sampled value are left out; nan where there is none that both have.
    """
    from scipy.stats import wasserstein_distance

    total = weight = 0.0
    for name, there in real.items():
        here = samples.get(name)
        if here is None or not len(here.values) or not len(there.values):
            continue
        apart = wasserstein_distance(here.values, there.values, here.weights, there.weights)
        total += apart * there.weights.sum()
        weight += there.weights.sum()
    return float(total / weight) if weight else float("nan")


def valid(ensemble: Ensemble, real: Mapping[str, Spread]) -> np.ndarray:
    """bool [C]: which conformations are finite, with bonds as long as real ones of their type and no clash.

    real: the bonds among `spreads` of real molecules that have every type. Lengths may lie `TOLERANCE` outside
    the range of the real ones; a clash is two atoms that are not bonded at the distance of a bond. Handedness is
    not judged.
    """
    bonds = internal(ensemble.atoms, ensemble.bonds)["bond"]
    fine = finite(ensemble.positions)
    positions = np.where(fine[:, None, None], ensemble.positions, 0.0)
    lengths_Cm = values("bond", positions, bonds.atoms)
    low_m = np.array([real[name].values.min() for name in bonds.types]) * (1 - TOLERANCE)
    high_m = np.array([real[name].values.max() for name in bonds.types]) * (1 + TOLERANCE)
    fine &= np.all((lengths_Cm >= low_m) & (lengths_Cm <= high_m), axis=1)
    for wrong in impossible(ensemble.atoms, ensemble.bonds, positions).values():
        fine &= ~wrong
    return fine


def histograms(samples: Mapping[str, Spread], real: Mapping[str, Spread]) -> list[dict[str, Any]]:
    """Bond lengths of the commonest types, for a generation's show.json; see `families.Family.show`.

    samples, real: the bonds among `spreads`. Bins depend on the real values alone; the outermost hold what lies
    beyond.
    """
    common = sorted(real, key=lambda name: (-real[name].weights.sum(), name))[:COMMONEST]
    return [
        {"title": f"{name} bond length", "unit": "Å", **found}
        for name in common
        for found in _histogram(samples.get(name), real[name])
    ]


def _histogram(samples: Spread | None, real: Spread) -> Iterator[dict[str, list[float]]]:
    edges = np.linspace(real.values.min() - MARGIN, real.values.max() + MARGIN, BINS + 1)
    if samples is not None and len(samples.values):
        shares = {
            name: np.histogram(np.clip(some.values, edges[0], edges[-1]), edges, weights=some.weights)[0]
            for name, some in (("values", samples), ("real", real))
        }
        yield {"edges": edges.tolist(), **{name: (a / a.sum()).tolist() for name, a in shares.items()}}
