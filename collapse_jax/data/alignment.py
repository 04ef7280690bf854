"""Least RMSD between conformations of a molecule, over rotations and over all its symmetries, however many.

A symmetry renumbers heavy atoms so that elements, charges and bonds stay; the ends of a conjugated group such as
nitro or carboxylate count as equal, as in RDKit's GetBestRMS. Few symmetries are tried one by one. Many come as
products: with base points b_1, b_2, .. each is u_1 u_2 .. with u_i from the few that leave b_1 .. b_(i-1) alone and
move b_i (Sims 1970). Their tree is searched by branch and bound, which leaves out only what cannot be the least.
"""

import functools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rdkit.Chem import Mol

LISTED = 1000  # symmetries up to which each is tried
TOGETHER = 20_000  # partial symmetries that are bounded at once
BEAM = 8  # nodes of a pair that go on in the first descent
EQUAL_ENDS = "[O,N;D1;$([O,N;D1]-[*]=[O,N;D1]),$([O,N;D1]=[*]-[O,N;D1])]~[*]"


def rmsd(mol: "Mol") -> np.ndarray:
    """Å [C, C]: least RMSD over the heavy atoms between the conformers of RDKit's molecule (no reflections)."""
    from rdkit import Chem
    from rdkit.Chem import rdMolAlign

    heavy = Chem.RemoveHs(mol)
    count = heavy.GetNumConformers()
    apart = np.zeros((count, count))
    if count < 2:
        return apart
    graph = _graph(heavy)
    listed = graph.GetSubstructMatches(graph, uniquify=False, maxMatches=LISTED + 1)
    below = np.tril_indices(count, -1)
    if len(listed) <= LISTED:
        maps = [list(enumerate(match)) for match in listed]
        apart[below] = rdMolAlign.GetAllConformerBestRMS(heavy, numThreads=0, map=maps)
    else:
        points = np.stack([conformer.GetPositions() for conformer in heavy.GetConformers()])
        apart[below] = bounded(points, *below, chain(graph))
    return apart + apart.T


def _graph(heavy: "Mol") -> "Mol":
    """The molecule with nothing to tell atoms apart but what a symmetry keeps."""
    from rdkit import Chem

    graph = Chem.RWMol(heavy)
    graph.RemoveAllConformers()
    for end, middle in heavy.GetSubstructMatches(_equal_ends()):
        graph.GetAtomWithIdx(end).SetFormalCharge(0)
        graph.GetBondBetweenAtoms(end, middle).SetBondType(Chem.BondType.OTHER)
    for atom in graph.GetAtoms():
        atom.SetNoImplicit(True)
        atom.SetNumExplicitHs(0)
        atom.SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
    return graph.GetMol()


@functools.cache
def _equal_ends() -> "Mol":
    from rdkit import Chem

    return Chem.MolFromSmarts(EQUAL_ENDS)


def chain(graph: "Mol") -> list[np.ndarray]:
    """[k, n] for each base point: a symmetry (atom -> atom) for each place that it can go while those before stay."""
    from rdkit import Chem

    found, fixed = [], []
    while True:
        ranks = np.array(Chem.CanonicalRankAtoms(_labelled(graph, fixed), breakTies=False))
        equal = [np.flatnonzero(ranks == rank) for rank in np.unique(ranks) if (ranks == rank).sum() > 1]
        if not equal:
            return found
        places = max(equal, key=lambda cell: (graph.GetAtomWithIdx(int(cell[0])).GetDegree(), -cell[0]))
        start = _labelled(graph, [*fixed, places[0]])
        moved = [_labelled(graph, [*fixed, place]).GetSubstructMatch(start) for place in places]
        found.append(np.array([match for match in moved if match]))
        fixed.append(places[0])


def _labelled(graph: "Mol", atoms: list) -> "Mol":
    """The graph with its atoms numbered by isotopes, in this order."""
    from rdkit import Chem

    labelled = Chem.Mol(graph)
    for label, atom in enumerate(atoms, 1):
        labelled.GetAtomWithIdx(int(atom)).SetIsotope(label)
    return labelled


def bounded(
    points: np.ndarray, first: np.ndarray, second: np.ndarray, symmetries: list[np.ndarray]
) -> np.ndarray:
    """Å [P]: least RMSD of conformations first [P] and second [P] among points [C, n, 3], by branch and bound.

    The RMSD is least where the overlap max_R tr R sum_j x_j y_g(j)^T is greatest over symmetries g. A node of the
    tree knows u_1 .. u_i of g, and with them to which sets of atoms the orbits of what is left go.
    """
    points = points - points.mean(1, keepdims=True)
    symmetries = symmetries or [np.arange(points.shape[1])[None]]
    levels = [_Level(points, _orbits(points.shape[1], symmetries[i:])) for i in range(len(symmetries) + 1)]
    square = (points**2).sum((1, 2))
    slack = 1e-9 * (square[first] + square[second])
    best = np.full(len(first), -np.inf)

    def children(
        depth: int, pair: np.ndarray, image: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(pair, image, bound) of the nodes one level below that may be better than the best so far."""
        step, level = symmetries[depth], levels[depth + 1]
        image = image[:, step].reshape(-1, image.shape[1])
        pair = np.repeat(pair, len(step))
        bound = level.bound(points, first[pair], second[pair], image, best[pair] + slack[pair])
        if depth + 1 == len(symmetries):
            np.maximum.at(best, pair, bound)
        open_ = bound > best[pair] + slack[pair]
        return pair[open_], image[open_], bound[open_]

    pair, image = np.arange(len(first)), np.tile(np.arange(points.shape[1]), (len(first), 1))
    stack: list[tuple[int, np.ndarray, np.ndarray, np.ndarray]] = [
        (0, pair, image, np.full(len(pair), np.inf))
    ]
    for depth in range(len(symmetries)):  # straight down to a good symmetry of each pair
        pair, image, bound = children(depth, pair, image)
        order = np.lexsort((-bound, pair))
        rank = np.arange(len(order)) - np.searchsorted(pair[order], pair[order])
        pair, image = pair[order][rank < BEAM], image[order][rank < BEAM]
    while stack:
        depth, pair, image, bound = stack.pop()
        if depth == len(symmetries):
            continue
        open_ = np.flatnonzero(bound > best[pair] + slack[pair])
        now, later = open_[:TOGETHER], open_[TOGETHER:]
        if len(later):
            stack.append((depth, pair[later], image[later], bound[later]))
        if len(now):
            stack.append((depth + 1, *children(depth, pair[now], image[now])))
    left = np.maximum(square[first] + square[second] - 2 * best, 0)
    return np.sqrt(left / points.shape[1])


def _orbits(atoms: int, symmetries: list[np.ndarray]) -> np.ndarray:
    """[atoms]: the least atom that the symmetries and their products move each atom to."""
    orbit = np.arange(atoms)
    for symmetry in (one for step in symmetries for one in step):
        for atom, image in enumerate(symmetry):
            low, high = sorted((orbit[atom], orbit[image]))
            orbit[orbit == high] = low
    return orbit


class _Level:
    """Orbits of the symmetries that are left at a depth of the tree, and bounds of the overlaps that they leave open.

    The means of an orbit and of its image are aligned as if atoms. What deviates from them by x, y adds at most
    |x| |y| in any rotation R (Cauchy-Schwarz). More closely, if R_0 aligns the means with overlap T and singular
    values s_1 >= s_2 >= s_3 (s_3 < 0 for a mirror image), a rotation by another angle a loses (1 - cos a)(s_2 + s_3)
    of T and gains at most 2 sin(a/2) |x| |y| over the nearest partners in R_0: (|x| |y|)^2 / (2 (s_2 + s_3)) in all.
    """

    def __init__(self, points: np.ndarray, orbit: np.ndarray):
        """points [C, n, 3], centred. orbit [n]."""
        self.order = np.argsort(orbit, kind="stable")  # atoms, orbit after orbit
        orbit = orbit[self.order]
        _, self.starts, sizes = np.unique(orbit, return_index=True, return_counts=True)
        self.sizes = sizes
        self.open = np.flatnonzero(np.repeat(sizes, sizes) > 1)
        self.apart = orbit[self.open, None] != orbit[None, self.open]
        self.means, self.away, self.norms = self._moments(points[:, self.order])

    def _moments(self, ordered: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Means [.., orbits, 3], deviations [.., open atoms, 3] from them and norms [.., orbits] of these."""
        means = np.add.reduceat(ordered, self.starts, 1) / self.sizes[:, None]
        away = ordered - np.repeat(means, self.sizes, 1)
        return means, away[:, self.open], np.sqrt(np.add.reduceat((away**2).sum(-1), self.starts, 1))

    def bound(
        self, points: np.ndarray, first: np.ndarray, second: np.ndarray, image: np.ndarray, wanted: np.ndarray
    ) -> np.ndarray:
        """At least the greatest overlap [S] of symmetries that begin with `image` [S, n], closely if over `wanted`."""
        means, away, norms = self._moments(points[second[:, None], image[:, self.order]])
        overlap = np.einsum("soi,soj->sij", self.means[first] * self.sizes[:, None], means)
        left, values, right = np.linalg.svd(overlap)
        values[:, 2] *= np.sign(np.linalg.det(overlap))
        aligned, loose = values.sum(1), (self.norms[first] * norms).sum(1)
        bound = aligned + loose
        at = np.flatnonzero((bound > wanted) & (values[:, 1] + values[:, 2] > 0))
        if len(self.open) and len(at):
            left[:, :, 2] *= np.sign(values[:, 2:])  # so that left right is the rotation, transposed
            turned = self.away[first[at]] @ (left[at] @ right[at])
            near = np.where(self.apart, -np.inf, turned @ away[at].mT).max(2).sum(1)
            close = aligned[at] + near + loose[at] ** 2 / (2 * (values[at, 1] + values[at, 2]))
            bound[at] = np.minimum(bound[at], close)
        return bound
