"""Measures of conformations against slow loops, SciPy, RDKit's own numbers and sets made by hand."""

import base64
import dataclasses
import functools
import io
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("rdkit", reason="needs the extra 'molecules'")
from molecule_baseline import bond_lengths, walked
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers, rdMolAlign, rdMolTransforms
from scipy.stats import special_ortho_group, wasserstein_distance

from collapse_jax.data import alignment, chemistry, molecule_files
from collapse_jax.data.molecules import _batches
from collapse_jax.measures import molecule_geometry as geometry
from collapse_jax.measures import molecule_pictures as pictures
from collapse_jax.measures import molecules as measures


def molecule(smiles, conformers=4, seed=0):
    """A sound molecule with MMFF conformers."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMultipleConfs(mol, conformers, randomSeed=seed + 1)
    rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(mol)
    positions = np.stack([conformer.GetPositions() for conformer in mol.GetConformers()])
    return chemistry.checked(molecule_files.entry(mol, smiles, positions))[0]


def rows(molecules, keep=lambda i, c: True, size=26):
    """A batch of all conformations (i, c) of the molecules that are kept."""
    which = [(i, c) for i, m in enumerate(molecules) for c in range(len(m.positions)) if keep(i, c)]
    parts = list(_batches(molecules, which, size))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def ensemble(found, positions=None):
    positions = found.positions if positions is None else positions
    return geometry.Ensemble(found.atoms, found.bonds, found.charges, positions)


@pytest.fixture(scope="module")
def some():
    return [molecule(smiles, 6) for smiles in ("CCCCO", "OCC(O)CO", "NCCc1ccccc1", "CC(=O)OCC", "CC#N")]


# --- RMSD over symmetries


def kabsch(first, second):
    """Least RMSD over rotations, by singular values."""
    first, second = first - first.mean(0), second - second.mean(0)
    left, values, right = np.linalg.svd(first.T @ second)
    values[-1] *= np.sign(np.linalg.det(left @ right))
    return np.sqrt(max((first**2).sum() + (second**2).sum() - 2 * values.sum(), 0) / len(first))


def brute_rmsd(found, first, second):
    """Least over every permutation of the heavy atoms that keeps elements and bonds."""
    heavy = np.flatnonzero(found.atoms > 1)
    atoms, bonds = found.atoms[heavy], found.bonds[np.ix_(heavy, heavy)]
    orders = (list(order) for order in itertools.permutations(range(len(heavy))))
    symmetries = [p for p in orders if (atoms[p] == atoms).all() and (bonds[np.ix_(p, p)] == bonds).all()]
    return min(kabsch(first[heavy], second[heavy][p]) for p in symmetries), len(symmetries)


@pytest.mark.parametrize(
    "smiles, symmetries",
    [("CCCO", 1), ("CC(C)CC", 2), ("CC(C)(C)CO", 6), ("FC(F)(F)CO", 6), ("c1ccccc1", 12), ("C1CCCC1", 10),
     ("CSSC", 2), ("CC(C)(C)C", 24), ("Oc1ccco1", 1), ("CNC(C)C", 2)],
)  # fmt: skip
def test_rmsd_is_the_least_over_all_symmetries(smiles, symmetries):
    found = molecule(smiles)
    noise = (
        np.random.default_rng(0).normal(size=found.positions.shape) * 0.4
    )  # far enough to need the symmetries
    positions = found.positions + noise
    apart = measures.rmsd(ensemble(found), positions)
    for i, j in itertools.combinations(range(len(positions)), 2):
        expected, count = brute_rmsd(found, positions[i], positions[j])
        assert count == symmetries
        assert apart[i, j] == apart[j, i] == pytest.approx(expected, abs=1e-5)
    assert (np.diag(apart) == 0).all()


def test_rmsd_knows_that_ends_of_a_conjugated_group_are_equal():
    found = molecule("C[N+](=O)[O-]", 1)
    swap = np.arange(len(found.atoms))
    swap[[2, 3]] = 3, 2
    assert (found.atoms[[2, 3]] == 8).all()
    both = np.stack([found.positions[0], found.positions[0][swap]])
    assert measures.rmsd(ensemble(found), both)[0, 1] == pytest.approx(0, abs=1e-3)


@given(st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_rmsd_sees_no_rotation_but_a_mirror(seed):
    found = _chiral()
    generator = np.random.default_rng(seed)
    turn = special_ortho_group.rvs(3, random_state=generator)
    moved = found.positions @ turn.T + generator.normal(size=3) * 5
    apart = measures.rmsd(
        ensemble(found), np.concatenate([found.positions, moved, found.positions * [1, 1, -1]])
    )
    assert apart[0, 1] == pytest.approx(0, abs=2e-3)
    assert apart[0, 2] > 0.3 and apart[0, 2] == pytest.approx(apart[1, 2], abs=1e-3)


@functools.cache
def _chiral():
    return molecule("CC(O)(N)C#N", 1)


@pytest.mark.parametrize(
    "smiles, symmetries, noise",
    [
        ("CC(C)(C)CO", 6, 0.4),
        ("C[N+](=O)[O-]", 2, 0.4),
        ("FC(F)(F)c1cc(C(F)(F)F)cc(C(=O)O)c1", 144, 0.0),
        ("CC(C)(C)c1ccc(cc1)-c1ccc(cc1)C(C)(C)C", 288, 0.7),
        ("OS(=O)(=O)C(F)(F)C(F)(F)F", 72, 1.5),
        ("CC(C)(C)C(C(C)(C)C)C(C)(C)C", 1296, 0.3),
    ],
)
def test_branch_and_bound_is_the_full_search(smiles, symmetries, noise, monkeypatch):
    """Against RDKit's, which tries every symmetry, on real shapes and on ones torn apart, from a poor start."""
    monkeypatch.setattr(alignment, "BEAM", 1)
    found = molecule(smiles)
    points = found.positions + np.random.default_rng(0).normal(size=found.positions.shape) * noise
    mol = Chem.RemoveHs(chemistry.build(found.atoms, found.bonds, found.charges, points))
    points = np.stack([conformer.GetPositions() for conformer in mol.GetConformers()])
    chain = alignment.chain(alignment._graph(mol))
    assert math.prod(map(len, chain)) == symmetries
    apart = alignment.bounded(points, *np.tril_indices(len(points), -1), chain)
    full = rdMolAlign.GetAllConformerBestRMS(mol, maxMatches=10**6)
    np.testing.assert_allclose(apart, full, atol=1e-6)


@pytest.mark.parametrize("listed", [0, 1000])
def test_equal_atoms_renumbered_are_the_same_conformations(listed, monkeypatch):
    """Samples that are the real conformations but for a symmetry cover all of them at no distance."""
    monkeypatch.setattr(alignment, "LISTED", listed)
    found, generator = molecule("CC(C)(C)OC(=O)OC(C)(C)C", 3), np.random.default_rng(0)
    heavy = np.flatnonzero(found.atoms > 1)
    graph = Chem.RemoveHs(chemistry.build(found.atoms, found.bonds, found.charges))
    same = graph.GetSubstructMatches(graph, uniquify=False)
    assert len(same) > 64
    moved = found.positions.copy()
    for points in moved:
        points[heavy] = points[heavy[list(same[generator.integers(len(same))])]]
    other = dataclasses.replace(found, positions=moved)
    values = measures.measure([rows([other], size=30)], [rows([found], size=30)])
    assert values["matching_recall"] == pytest.approx(0, abs=1e-5)
    assert values["coverage_recall_0.5"] == values["coverage_precision_0.5"] == 1


# --- coverage and matching


def test_coverage_and_matching_of_a_table_made_by_hand():
    apart = np.array([[0.4, 2.0, 1.0], [0.9, 1.3, 1.4]])  # two real, three generated
    assert measures.coverage(apart) == pytest.approx(
        {
            "coverage_recall_0.5": 1 / 2,
            "coverage_recall_1.25": 1.0,
            "matching_recall": (0.4 + 0.9) / 2,
            "coverage_precision_0.5": 1 / 3,
            "coverage_precision_1.25": 2 / 3,
            "matching_precision": (0.4 + 1.3 + 1.0) / 3,
        }
    )


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_coverage_is_what_plain_loops_count(real, generated, seed):
    apart = np.random.default_rng(seed).uniform(0, 2.5, (real, generated))
    found = measures.coverage(apart)
    for threshold in (0.5, 1.25):
        recalled = sum(any(apart[r, g] <= threshold for g in range(generated)) for r in range(real))
        precise = sum(any(apart[r, g] <= threshold for r in range(real)) for g in range(generated))
        assert found[f"coverage_recall_{threshold}"] == pytest.approx(recalled / real)
        assert found[f"coverage_precision_{threshold}"] == pytest.approx(precise / generated)
    assert found["matching_recall"] == pytest.approx(np.mean([min(row) for row in apart]))
    assert found["matching_precision"] == pytest.approx(np.mean([min(row) for row in apart.T]))


def test_the_real_conformations_themselves_are_perfect(some):
    batch = rows(some)
    found = measures.measure([batch], [batch])
    assert set(found) == set(measures.UNITS)
    for name, value in found.items():
        if name.startswith(("coverage", "valid")):
            assert value == 1, name
        elif name.startswith("matching") or name.endswith("distance"):
            assert value == pytest.approx(0, abs=1e-6), name
    assert found["diversity"] == found["real_diversity"] > 0.3


def test_copies_of_one_conformation_are_precise_but_cover_little(some):
    real = rows(some)
    copies = rows(some, keep=lambda i, c: c == 0)
    copies = {name: np.repeat(values, 6, 0) for name, values in copies.items()}
    found = measures.measure([copies], [real])
    recall = []
    for m in some:
        near = [measures.rmsd(ensemble(m), m.positions[[0, c]])[0, 1] for c in range(len(m.positions))]
        recall.append(np.mean(np.array(near) <= 0.5))
    assert found["coverage_recall_0.5"] == pytest.approx(np.mean(recall)) and np.mean(recall) < 0.8
    assert found["coverage_precision_0.5"] == 1 and found["matching_precision"] == pytest.approx(0, abs=1e-6)
    assert found["diversity"] == pytest.approx(0, abs=1e-6) and found["valid_share"] == 1
    assert found["torsion_distance"] > 5


def test_measures_see_neither_rotations_nor_the_numbers_of_atoms(some):
    generator = np.random.default_rng(0)
    real, drawn = rows(some, lambda i, c: c < 3), rows(some, lambda i, c: c >= 3)
    drawn["positions"] = (drawn["positions"] + 0.1 * generator.normal(size=drawn["positions"].shape)) * (
        drawn["atoms"] > 0
    )[..., None]
    expected = measures.measure([drawn], [real])
    turns = special_ortho_group.rvs(3, size=len(drawn["count"]), random_state=generator)
    turned = {**drawn, "positions": np.einsum("bnx,bxy->bny", drawn["positions"], turns) + 1.0}
    assert measures.measure([turned], [real]) == pytest.approx(expected, abs=2e-3)
    other = [permuted(batch, seed) for batch, seed in ((drawn, 3), (real, 3))]
    assert measures.measure([other[0]], [other[1]]) == pytest.approx(expected, abs=2e-3)
    halves = [{name: values[part::2] for name, values in drawn.items()} for part in (0, 1)]
    assert measures.measure(halves, [real]) == pytest.approx(expected, abs=1e-6)


def permuted(batch, seed):
    """The rows with the atoms of every molecule in another order, the same in all its rows."""
    found = {name: values.copy() for name, values in batch.items()}
    for row, (n, i) in enumerate(zip(batch["count"].tolist(), batch["molecule"].tolist(), strict=True)):
        order = np.random.default_rng([seed, i]).permutation(n)
        for name in ("atoms", "positions", "charges"):
            found[name][row, :n] = batch[name][row, order]
        found["bonds"][row, :n, :n] = batch["bonds"][row][np.ix_(order, order)]
    return found


def test_samples_that_are_not_finite_are_invalid_and_otherwise_left_out(some):
    real, drawn = rows(some), rows(some)
    drawn["positions"][drawn["molecule"] == 0, 0, 0] = np.nan
    drawn["positions"][-1, 0, 0] = np.inf
    found = measures.measure([drawn], [real])
    first = len(some[0].positions)
    assert found["valid_share"] == pytest.approx(1 - (first + 1) / len(drawn["count"]))
    assert found["coverage_recall_0.5"] == pytest.approx(4 / 5) and found["matching_recall"] == np.inf
    assert found["bond_distance"] == pytest.approx(0, abs=1e-6)


def test_nothing_in_common_gives_no_number(some):
    real, drawn = rows(some), rows(some)
    drawn["molecule"] += 100
    assert all(np.isnan(value) for value in measures.measure([drawn], [real]).values())
    assert measures.histograms([drawn], [real]) == []


def test_only_so_many_molecules_and_conformations_are_looked_at(some):
    batch = rows(some)
    found = measures.ensembles([batch], 2, limit=3)
    assert list(found) == [0, 1, 2] and all(len(e.positions) == 2 for e in found.values())
    np.testing.assert_array_equal(found[1].positions, some[1].positions[:2])
    assert set(measures.ensembles([batch], 2, among=[4, 1, 77])) == {1, 4}


# --- lengths, angles, torsions


def test_internal_coordinates_are_rdkits(some):
    for found in some:
        mol = chemistry.build(found.atoms, found.bonds, found.charges, found.positions)
        conformer = mol.GetConformer(1) if mol.GetNumConformers() > 1 else mol.GetConformer(0)
        parts = geometry.internal(found.atoms, found.bonds)
        tools = (rdMolTransforms.GetBondLength, rdMolTransforms.GetAngleDeg, rdMolTransforms.GetDihedralDeg)
        for (kind, part), tool in zip(parts.items(), tools, strict=True):
            mine = geometry.values(kind, found.positions.astype(float), part.atoms)[conformer.GetId()]
            theirs = [abs(tool(conformer, *map(int, path))) for path in part.atoms]
            np.testing.assert_allclose(mine, theirs, atol=1e-3)
        degrees = (found.bonds > 0).sum(1)
        assert len(parts["bond"].types) == degrees.sum() / 2
        assert len(parts["angle"].types) == (degrees * (degrees - 1) / 2).sum()


def test_types_read_the_same_from_both_ends():
    parts = geometry.internal(*(getattr(molecule("CC(=O)OCC#N"), name) for name in ("atoms", "bonds")))
    assert set(parts["bond"].types) == {"C-C", "C-H", "C-O", "C=O", "C#N"}
    assert {"C-C=O", "O-C=O", "C-C-O", "C-O-C", "C-C#N"} <= set(parts["angle"].types)
    assert set(parts["torsion"].types) == {"C-C-O-C", "C-O-C=O"}
    aromatic = molecule("Oc1ccccc1")
    assert "C:C" in geometry.internal(aromatic.atoms, aromatic.bonds)["bond"].types


def test_distances_are_scipys_averaged_by_the_real_weight(some):
    generator = np.random.default_rng(1)
    shaken = [
        ensemble(m, m.positions[:3] + 0.05 * generator.normal(size=m.positions[:3].shape)) for m in some
    ]
    real = [ensemble(m) for m in some]
    here, there = geometry.spreads(shaken), geometry.spreads(real)
    for kind in geometry.KINDS:
        total = weight = 0.0
        for name in there[kind]:
            sides = []
            for side in (shaken, real):
                values, weights = [], []
                for e in side:
                    found = geometry.internal(e.atoms, e.bonds)[kind]
                    for positions in e.positions.astype(float):
                        for t, path in zip(found.types, found.atoms, strict=True):
                            if t == name:
                                values.append(geometry.values(kind, positions[None], path[None])[0, 0])
                                weights.append(1 / len(e.positions))
                sides.append((values, weights))
            (a, p), (b, q) = sides
            total += wasserstein_distance(a, b, p, q) * sum(q)
            weight += sum(q)
        assert geometry.distance(here[kind], there[kind]) == pytest.approx(total / weight)
    assert geometry.distance(here["bond"], there["bond"]) > 0.01


def test_a_shift_of_all_lengths_is_the_distance():
    found = molecule("CC", 1)
    longer = ensemble(found, found.positions.astype(float) * 1.1)
    here, there = geometry.spreads([longer])["bond"], geometry.spreads([ensemble(found)])["bond"]
    lengths = {name: spread.values.mean() for name, spread in there.items()}
    expected = 0.1 * (6 * lengths["C-H"] + lengths["C-C"]) / 7
    assert geometry.distance(here, there) == pytest.approx(expected, rel=1e-5)
    assert np.isnan(geometry.distance({}, there))


def test_valid_geometries_are_finite_without_stretched_bonds_or_clashes(some):
    found = some[0]
    bonds = geometry.spreads([ensemble(found)])["bond"]
    positions = np.repeat(found.positions[:1].astype(float), 6, 0)
    hydrogen = int(np.flatnonzero(found.atoms == 1)[0])
    bound = int(np.flatnonzero(found.bonds[hydrogen])[0])
    other = int(np.flatnonzero((found.atoms == 6) & ~found.bonds[bound].astype(bool))[-1])
    bond = positions[0, hydrogen] - positions[0, bound]
    positions[1, hydrogen] += bond * 0.25
    positions[2, hydrogen] -= bond * 0.25
    positions[3, 0, 0] = np.nan
    positions[4] += 7
    folded = positions[5].copy()
    folded[other] = positions[0, bound] + 1.2 * (positions[0, other] - positions[0, bound]) / np.linalg.norm(
        positions[0, other] - positions[0, bound]
    )
    positions[5] = folded
    assert geometry.valid(ensemble(found, positions), bonds).tolist() == [
        True,
        False,
        False,
        False,
        True,
        False,
    ]
    mirrored = ensemble(found, found.positions * [1, 1, -1])
    assert geometry.valid(mirrored, bonds).all()


def test_histograms_hold_shares_over_bins_of_the_real_lengths(some):
    generator = np.random.default_rng(0)
    real, drawn = rows(some), rows(some)
    drawn["positions"] = drawn["positions"] + generator.normal(size=drawn["positions"].shape)
    found, same = measures.histograms([drawn], [real]), measures.histograms([real], [real])
    assert [h["title"] for h in found] == [h["title"] for h in same]
    assert found[0]["title"] == "C-H bond length" and found[0]["unit"] == "Å" and len(found) == 4
    for h, s in zip(found, same, strict=True):
        assert len(h["edges"]) == len(h["values"]) + 1 == len(h["real"]) + 1
        assert sum(h["values"]) == pytest.approx(1) and sum(h["real"]) == pytest.approx(1)
        assert h["values"][0] + h["values"][-1] > 0.5  # what lies beyond the real lengths
        assert h["edges"] == s["edges"] and h["real"] == s["real"] == s["values"] != h["values"]


# --- pictures and lines


def test_a_gallery_is_a_picture_of_every_molecule(some):
    from matplotlib.image import imread

    real = rows(some, lambda i, c: c == 0)
    drawn = {**real, "positions": real["positions"] * np.float32(1.3)}
    drawn["positions"][0, 0] = np.nan
    image = imread(io.BytesIO(base64.b64decode(pictures.gallery(real, {"samples": drawn}))), format="png")
    height, width = image.shape[:2]
    assert width == pytest.approx(5 * 1.7 * 110, abs=2) and height == pytest.approx(5 * 1.7 * 110, abs=2)
    blank = image[..., :3].min((0, 2)) == 1
    cells = [blank[int(i * width / 5) + 5 : int((i + 1) * width / 5) - 5] for i in range(5)]
    assert all(not cell.all() for cell in cells)


def test_lines_name_the_molecules(some):
    assert pictures.lines(rows(some, lambda i, c: c == 0))[:2] == [
        "C4H10O  CCCCO  15 atoms",
        "C3H8O3  OCC(O)CO  14 atoms",
    ]


@given(st.integers(0, 1000), st.sampled_from([1, -1]))
@settings(max_examples=15, deadline=None)
def test_turned_points_lie_as_near_as_rdkit_brings_them(seed, mirror):
    found = _chiral()
    generator = np.random.default_rng(seed)
    target = found.positions[0].astype(float)
    points = (target * [1, 1, mirror] + 0.3 * generator.normal(size=target.shape)) @ special_ortho_group.rvs(
        3, random_state=generator
    )
    mols = [chemistry.build(found.atoms, found.bonds, found.charges, p[None]) for p in (points, target)]
    expected = rdMolAlign.AlignMol(*mols, atomMap=[(i, i) for i in range(len(target))])
    moved = pictures.turned(points, target)
    assert np.sqrt(((moved - target) ** 2).sum(1).mean()) == pytest.approx(expected, abs=1e-5)
    np.testing.assert_allclose(chemistry.distances(moved[None]), chemistry.distances(points[None]), atol=1e-9)


# --- the baseline for models


def test_the_baseline_knows_bond_lengths_and_nothing_else(some):
    real = rows(some)
    drawn = walked(real, bond_lengths([real]), np.random.default_rng(0))
    found = measures.measure([drawn], [real])
    assert found["bond_distance"] < 0.05  # but for bonds that close rings
    assert found["angle_distance"] > 10 and found["valid_share"] < 0.5
    assert found["coverage_recall_0.5"] < 0.5 and found["matching_recall"] > 0.4
