"""The least a conformation model must beat: conformations that know nothing but how long bonds are.

Atom after atom along the molecule's bonds, each in a random direction from the one before at a length drawn from a
Gaussian with the mean and spread of real bonds of its type.
"""

import numpy as np

from collapse_jax.measures.molecule_geometry import internal
from collapse_jax.measures.molecules import ensembles


def bond_lengths(rows):
    """Bond type -> (mean, standard deviation) in Å over real rows."""
    found = {}
    for ensemble in ensembles(rows, 20).values():
        bonds = internal(ensemble.atoms, ensemble.bonds)["bond"]
        ends = ensemble.positions[:, bonds.atoms]
        lengths = np.linalg.norm(ends[:, :, 0] - ends[:, :, 1], axis=-1)
        for name, column in zip(bonds.types, lengths.T, strict=True):
            found.setdefault(name, []).extend(column.tolist())
    return {name: (np.mean(some), np.std(some)) for name, some in found.items()}


def walked(batch, lengths, generator):
    """A batch of the same molecules with such conformations in place of its own; unknown bonds are of 1.5 Å."""
    positions = np.zeros_like(batch["positions"])
    for row, n in enumerate(batch["count"].tolist()):
        bonds = internal(batch["atoms"][row, :n], batch["bonds"][row, :n, :n])["bond"]
        drawn = {
            frozenset(pair): generator.normal(*lengths.get(name, (1.5, 0.05)))
            for name, pair in zip(bonds.types, bonds.atoms.tolist(), strict=True)
        }
        placed, waiting = {0: np.zeros(3)}, [0]
        while waiting:
            here = waiting.pop(0)
            for near in np.flatnonzero(batch["bonds"][row, here, :n]).tolist():
                if near not in placed:
                    way = generator.normal(size=3)
                    placed[near] = placed[here] + drawn[frozenset((here, near))] * way / np.linalg.norm(way)
                    waiting.append(near)
        points = np.array([placed[i] for i in range(n)])
        positions[row, :n] = points - points.mean(0)
    return {**batch, "positions": positions}
