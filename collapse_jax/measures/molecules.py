"""What sampled conformations are judged by: coverage and matching of the real ones, geometry, diversity.

Distances between conformations are RMSDs over the heavy atoms after the best rotation and over the symmetries of
the molecule. Molecules have the same number (`molecule`) in the samples and in the real rows; those judged, and how
many of their conformations, are bounded so that a generation takes seconds.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from collapse_jax.data import alignment
from collapse_jax.data.chemistry import build
from collapse_jax.measures import molecule_geometry as geometry
from collapse_jax.measures.molecule_geometry import Ensemble

THRESHOLDS = (0.5, 1.25)  # Å, as published for GEOM-QM9 and GEOM-Drugs
MOLECULES = 256  # the first of the samples; their lengths, angles and torsions are compared
ALIGNED = 64  # of these, the first with three heavy atoms or more are aligned as well
SAMPLED, REAL = 40, 20  # conformations of each that are looked at

UNITS = {
    **{f"coverage_{side}_{t:g}": "share" for t in THRESHOLDS for side in ("recall", "precision")},
    "matching_recall": "Å",
    "matching_precision": "Å",
    "bond_distance": "Å",
    "angle_distance": "degrees",
    "torsion_distance": "degrees",
    "valid_share": "share",
    "diversity": "Å",
    "real_diversity": "Å",
}

Rows = Iterable[Mapping[str, np.ndarray]]


def measure(samples: Rows, real: Rows) -> dict[str, float]:
    """All measures of the samples against the real conformations of the same molecules, named as in `UNITS`.

    Coverage and matching are means over molecules (see `coverage`), and grow with the number of samples of a
    molecule: compare equal numbers only. `diversity` is the mean RMSD between two samples of a molecule,
    `real_diversity` that between two of its real conformations. nan where there is nothing to judge.
    """
    drawn = ensembles(samples, SAMPLED, limit=MOLECULES)
    known = ensembles(real, REAL, among=drawn)
    both = [(drawn[i], known[i]) for i in drawn if i in known]
    found: dict[str, list[float]] = {name: [] for name in UNITS}
    for sampled, reference in [pair for pair in both if (pair[0].atoms > 1).sum() > 2][:ALIGNED]:
        apart = rmsd(sampled, np.concatenate([_finite(sampled), reference.positions]))
        count = len(_finite(sampled))
        for name, value in coverage(apart[count:, :count]).items():
            found[name].append(value)
        found["diversity"].append(_mean_pair(apart[:count, :count]))
        found["real_diversity"].append(_mean_pair(apart[count:, count:]))
    usable = [(_replaced(sampled, _finite(sampled)), reference) for sampled, reference in both]
    here, there = _spreads([pair for pair in usable if len(pair[0].positions)])
    for kind in geometry.KINDS:
        found[f"{kind}_distance"].append(geometry.distance(here[kind], there[kind]))
    bonds = geometry.spreads(reference for _, reference in both)["bond"]
    for sampled, _ in both:
        found["valid_share"] += geometry.valid(sampled, bonds).tolist()
    return {name: _mean(values) for name, values in found.items()}


def histograms(samples: Rows, real: Rows) -> list[dict[str, Any]]:
    """Bond lengths of the commonest types in the molecules that both have, for `show`."""
    drawn = ensembles(samples, SAMPLED, limit=MOLECULES)
    known = ensembles(real, REAL, among=drawn)
    here, there = _spreads([(drawn[i], known[i]) for i in drawn if i in known])
    return geometry.histograms(here["bond"], there["bond"])


def ensembles(
    rows: Rows, conformations: int, limit: int | None = None, among: Iterable[int] | None = None
) -> dict[int, Ensemble]:
    """Molecule -> its first conformations in the rows, for the first `limit` molecules, or those in `among`."""
    wanted = None if among is None else set(among)
    first: dict[int, Ensemble] = {}
    positions: dict[int, list[np.ndarray]] = {}
    for batch in rows:
        for row, molecule in enumerate(batch["molecule"].tolist()):
            if molecule not in first:
                if (wanted is not None and molecule not in wanted) or (limit and len(first) == limit):
                    continue
                n = int(batch["count"][row])
                first[molecule] = Ensemble(
                    batch["atoms"][row, :n],
                    batch["bonds"][row, :n, :n],
                    batch["charges"][row, :n],
                    np.empty(0),
                )
                positions[molecule] = []
            if len(positions[molecule]) < conformations:
                positions[molecule].append(batch["positions"][row, : len(first[molecule].atoms)])
    return {i: _replaced(first[i], np.stack(some)) for i, some in positions.items()}


def rmsd(ensemble: Ensemble, positions: np.ndarray) -> np.ndarray:
    """Å [C, C]: least RMSD over the heavy atoms between conformations [C, n, 3] of the molecule of an ensemble.

    Least over rotations and translations (no reflections) and over all symmetries of the molecule, with terminal
    conjugated groups such as nitro and carboxylate taken as symmetric.
    """
    return alignment.rmsd(build(ensemble.atoms, ensemble.bonds, ensemble.charges, positions))


def coverage(apart: np.ndarray) -> dict[str, float]:
    """Coverage at `THRESHOLDS` and matching of a molecule from RMSDs [R, G] of real to generated conformations.

    recall: share of the real ones that a generated one comes within the threshold of (COV-R, Xu et al. 2021), and
    mean over the real ones of the distance to the nearest generated one (MAT-R). precision: the same with the roles
    exchanged (COV-P, MAT-P, Ganea et al. 2021).
    """
    found = {}
    for side, table in (("recall", apart), ("precision", apart.T)):
        nearest = table.min(1, initial=np.inf)
        for threshold in THRESHOLDS:
            found[f"coverage_{side}_{threshold:g}"] = _mean(nearest <= threshold)
        found[f"matching_{side}"] = _mean(nearest)
    return found


def _spreads(pairs: list[tuple[Ensemble, Ensemble]]) -> tuple[geometry.Spreads, geometry.Spreads]:
    """`spreads` of the first and of the second of the pairs, which are of the same molecules."""
    return geometry.spreads(a for a, _ in pairs), geometry.spreads(b for _, b in pairs)


def _finite(ensemble: Ensemble) -> np.ndarray:
    return ensemble.positions[geometry.finite(ensemble.positions)]


def _replaced(ensemble: Ensemble, positions: np.ndarray) -> Ensemble:
    return Ensemble(ensemble.atoms, ensemble.bonds, ensemble.charges, positions)


def _mean_pair(apart: np.ndarray) -> float:
    """Mean distance of two different conformations; nan for fewer than two."""
    return _mean(apart[np.tril_indices(len(apart), -1)])


def _mean(values: Any) -> float:
    """Mean of the values that there are; nan for none."""
    values = np.asarray(values, float)
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")
