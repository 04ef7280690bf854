"""Real molecules into rows: every source, what is refused and why, splits by molecule, damage."""

import sys
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("rdkit", reason="needs the extra 'molecules'")
from rdkit import Chem
from rdkit.Chem import rdDepictor, rdDistGeom, rdForceFieldHelpers, rdMolDescriptors

from collapse_jax.config import BadInput, resolve, template
from collapse_jax.data import chemistry, molecule_archives, molecule_files, molecule_sources, molecules
from collapse_jax.data.chemistry import Entry, Refused, checked
from collapse_jax.data.dataset import describe
from collapse_jax.data.molecule_smiles import SMILES
from collapse_jax.data.molecules import MoleculeData, collect, prepare

REAL = Path(__file__).parents[2] / "shared" / "data"
MONOMERS = REAL / "spice-des-monomers" / "small" / "des_monomers_20.npz"
CONFORMERS = REAL / "conformer-benchmark" / "small" / "conformers30.npz"
QM7 = REAL / "qm7" / "small" / "qm7_200.npz"
real_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is absent")

FEW = "\n".join(
    ["c1ccccc1 benzene", "CCCCO butanol", "OCC(O)CO glycerol", "C[NH3+] methylammonium", "CC(N)=O a"]
)


def all_rows(dataset, split):
    with dataset.rows(split) as source:
        return source.read(0, len(source))


def everything(dataset):
    parts = [all_rows(dataset, split) for split in ("train", "validation", "test")]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def molecule_entry(smiles, seed=0, name="m", conformers=1) -> Any:
    """An entry that is fine: RDKit's molecule and its conformers as arrays."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMultipleConfs(mol, conformers, randomSeed=seed + 1)
    Chem.Kekulize(mol, clearAromaticFlags=True)
    positions = np.stack([conformer.GetPositions() for conformer in mol.GetConformers()])
    return molecule_files.entry(mol, name, positions)


# --- the builtin molecules


def test_every_builtin_molecule_is_one_of_its_own_with_parameters():
    lines = [line.split() for line in SMILES.strip().splitlines()]
    mols = [Chem.AddHs(Chem.MolFromSmiles(smiles)) for smiles, _ in lines]
    assert len(mols) > 300
    assert len({chemistry.name(mol) for mol in mols}) == len({name for _, name in lines}) == len(mols)
    for mol, (_, name) in zip(mols, lines, strict=True):
        assert len(Chem.GetMolFrags(mol)) == 1, name
        assert rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol), name
        assert mol.GetNumAtoms() <= 60, name


def test_builtin_drugs_have_their_formulas():
    known = {
        "aspirin": "C9H8O4", "caffeine": "C8H10N4O2", "ibuprofen": "C13H18O2", "diazepam": "C16H13ClN2O",
        "morphine": "C17H19NO3", "codeine": "C18H21NO3", "atropine": "C17H23NO3", "warfarin": "C19H16O4",
        "omeprazole": "C17H19N3O3S", "furosemide": "C12H11ClN2O5S", "fentanyl": "C22H28N2O",
        "celecoxib": "C17H14F3N3O2S", "ciprofloxacin": "C17H18FN3O3", "zidovudine": "C10H13N5O4",
        "ampicillin": "C16H19N3O4S", "chlorpromazine": "C17H19ClN2S", "nicotine": "C10H14N2",
        "metformin": "C4H11N5", "glucose": "C6H12O6", "cocaine": "C17H21NO4", "biotin": "C10H16N2O3S",
        "ranitidine": "C13H22N4O3S", "propranolol": "C16H21NO2", "indometacin": "C19H16ClNO4",
    }  # fmt: skip
    found = {line.split()[1]: Chem.MolFromSmiles(line.split()[0]) for line in SMILES.strip().splitlines()}
    assert {name: rdMolDescriptors.CalcMolFormula(found[name]) for name in known} == known


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(molecule_sources, "SMILES", FEW)


def test_builtin_conformers_are_distinct_and_the_same_every_time(few, tmp_path):
    data = MoleculeData(conformations=8, validation=0.2, test=0.2)
    dataset = prepare(data, tmp_path / "a")
    assert prepare(data, tmp_path / "b").digest == dataset.digest
    rows = everything(dataset)
    names = (dataset.path / "molecules.smi").read_text().split()
    assert names == ["c1ccccc1", "CCCCO", "OCC(O)CO", "C[NH3+]", "CC(N)=O"]
    counts = dict(zip(*np.unique(rows["molecule"], return_counts=True), strict=True))
    assert counts[0] == 1 and counts[3] == 1  # rigid
    assert 2 < counts[1] <= 8 and 2 < counts[2] <= 8
    charged = rows["charges"][rows["molecule"] == 3]
    assert charged.sum() == 1 and rows["charges"].sum() == 1


def test_prepared_rows_are_found_again_without_making_them(few, tmp_path, monkeypatch):
    first = prepare(MoleculeData(conformations=2), tmp_path)

    def never(*_):
        raise AssertionError("made again")

    monkeypatch.setattr(molecule_sources, "_conformers", never)
    assert prepare(MoleculeData(conformations=2), tmp_path).digest == first.digest
    given_rows = prepare(MoleculeData(source=f"rows:{first.path}"), tmp_path)
    assert given_rows.digest == first.digest
    monkeypatch.undo()
    monkeypatch.setattr(molecule_sources, "SMILES", FEW)
    shard = next((first.path / "train").iterdir())
    shard.write_bytes(shard.read_bytes()[:-3])
    assert prepare(MoleculeData(conformations=2), tmp_path).digest == first.digest


# --- real files


@real_data
def test_rows_are_the_conformations_of_the_archive(tmp_path):
    dataset = prepare(MoleculeData(source=f"npz:{MONOMERS}", conformations=0), tmp_path)
    raw = dict(np.load(MONOMERS))
    rows = everything(dataset)
    assert dataset.info["rejected"] == {} and dataset.info["notes"] == []
    assert len(rows["count"]) == raw["n_conf"].sum()
    assert dataset.info["max_atoms"] == np.diff(raw["ptr"]).max() == rows["atoms"].shape[1]
    assert dataset.info["elements"] == np.unique(raw["Z"]).tolist()
    start = 0
    for i, n in enumerate(np.diff(raw["ptr"])):
        mine = {name: values[rows["molecule"] == i] for name, values in rows.items()}
        block = raw["pos"][start : start + raw["n_conf"][i] * n].reshape(-1, n, 3).astype(float)
        start += raw["n_conf"][i] * n
        assert (mine["count"] == n).all()
        assert (mine["atoms"][:, :n] == raw["Z"][raw["ptr"][i] : raw["ptr"][i + 1]]).all()
        assert (mine["charges"][:, :n] == raw["formal_charge"][raw["ptr"][i] : raw["ptr"][i + 1]]).all()
        np.testing.assert_allclose(mine["positions"][:, :n], block - block.mean(1, keepdims=True), atol=1e-5)
        for name in ("atoms", "positions", "charges"):
            assert not mine[name][:, n:].any()
        listed = np.zeros((n, n), int)
        for a, b, order in raw["bonds"][raw["bond_ptr"][i] : raw["bond_ptr"][i + 1]]:
            listed[a, b] = listed[b, a] = order
        found = mine["bonds"][0, :n, :n]
        assert (mine["bonds"] == mine["bonds"][0]).all() and not mine["bonds"][0, n:].any()
        assert ((found == listed) | ((found == chemistry.AROMATIC) & (listed > 0))).all()
    assert (rows["bonds"] == chemistry.AROMATIC).any()


@real_data
def test_splits_are_by_molecule_in_any_order(tmp_path):
    data = MoleculeData(source=f"npz:{MONOMERS}", conformations=6, validation=0.2, test=0.2)
    dataset = prepare(data, tmp_path)
    parts = {split: all_rows(dataset, split)["molecule"] for split in ("train", "validation", "test")}
    assert [len(np.unique(part)) for part in parts.values()] == [12, 4, 4]
    assert len(np.unique(np.concatenate(list(parts.values())))) == 20
    for split, part in parts.items():
        assert (np.unique(part, return_counts=True)[1] == 6).all()
        assert len(np.unique(part[:4])) == 4  # the first rows are of different molecules
        told = dataset.info["splits"][split]
        assert told == {"rows": len(part), "molecules": len(np.unique(part))}
        assert sum(count for _, count in dataset.info["sizes"][split]) == len(part)
    other = prepare(MoleculeData(**{**vars(data), "seed": 1}), tmp_path)
    assert set(all_rows(other, "test")["molecule"]) != set(parts["test"])
    assert "20 of up to" in describe(dataset)


@real_data
def test_limits_on_atoms_conformations_and_rows(tmp_path):
    data = MoleculeData(
        source=f"npz:{MONOMERS}", conformations=5, max_atoms=12, max_rows=22, validation=0.25, test=0.25
    )
    dataset = prepare(data, tmp_path)
    sizes = np.diff(np.load(MONOMERS)["ptr"])
    said = dataset.info["rejected"]["more than max_atoms=12"]
    assert said["molecules"] == (sizes > 12).sum() and said["conformations"] == 50 * (sizes > 12).sum()
    assert dataset.info["max_atoms"] <= 12
    assert [dataset.row_count(split) for split in ("train", "validation", "test")] == [22, 10, 10]
    assert dataset.info["splits"]["train"]["molecules"] == 5  # four whole ones and a part
    rows = all_rows(dataset, "train")
    assert sorted(np.unique(rows["molecule"], return_counts=True)[1]) == [2, 5, 5, 5, 5]


@real_data
def test_bond_orders_that_fit_no_charge_are_perceived(tmp_path):
    raw = dict(np.load(CONFORMERS))
    found = collect(molecule_archives.npz(CONFORMERS))
    assert found.entries == 30 and found.conformations == 291
    assert list(found.rejected) == ["atoms at bonding distance without a bond"]
    assert found.rejected["atoms at bonding distance without a bond"]["first"] == ["13 astex_1m2z"]
    charges = [int(m.charges.sum()) for m in found.molecules.values()]
    assert charges == [int(q) for i, q in enumerate(raw["charge"]) if i != 13]
    for i, molecule in zip((j for j in range(30) if j != 13), found.molecules.values(), strict=True):
        bonds = raw["bonds"][raw["bond_ptr"][i] : raw["bond_ptr"][i + 1]]
        assert set(map(tuple, np.argwhere(np.triu(molecule.bonds)))) == {
            (min(a, b), max(a, b)) for a, b, _ in bonds
        }


@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is absent")
def test_the_known_faults_of_the_conformer_archive_are_found():
    known = {
        "omegacsd_MATSTA10", "omegacsd_PMTSZD", "omegacsd_CATXIE", "omegacsd_HEVJAT", "omegapdb_1nnk",
        "omegapdb_1r4p",
    }  # fmt: skip
    archive = REAL / "conformer-benchmark" / "conformers700.npz"
    found = collect(entry for entry in molecule_archives.npz(archive) if entry.name in known)
    assert found.rejected["bonded atoms too far apart"]["molecules"] == 6
    assert {
        where.split()[1].rstrip(":") for where in found.rejected["bonded atoms too far apart"]["first"]
    } < known


@real_data
def test_geometry_alone_gives_bonds_that_fill_every_valence():
    found = collect(molecule_archives.npz(QM7))
    assert not found.rejected and len(found.molecules) > 190
    for molecule in found.molecules.values():
        filled = np.where(molecule.bonds == chemistry.AROMATIC, 1.5, molecule.bonds).sum(1)
        assert (filled[molecule.atoms == 1] == 1).all()
        assert (filled[(molecule.atoms == 6) & (molecule.charges == 0)] == 4).all()
        assert molecule.charges.sum() == 0


# --- the same molecule, numbered otherwise


@given(
    st.sampled_from(["CC(C)CO", "CC(=O)c1ccccc1", "C[N+](=O)[O-]", "NCC([O-])=O", "OCC1OC1C"]),
    st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_equal_molecules_become_one_with_atoms_in_one_order(smiles, seed):
    first, second = molecule_entry(smiles), molecule_entry(smiles, seed=seed)
    order = np.random.default_rng(seed).permutation(len(first.atoms))
    place = np.argsort(order)
    bonds = np.column_stack([place[second.bonds[:, :2]], second.bonds[:, 2]])
    moved = Entry("moved", second.atoms[order], second.positions[:, order], bonds, second.charges[order])
    found = collect(iter([first, moved]))
    (molecule,) = found.molecules.values()
    assert len(molecule.positions) == 2
    wrong = chemistry.impossible(molecule.atoms, molecule.bonds, molecule.positions)
    assert not any(bad.any() for bad in wrong.values())
    pairs = np.argwhere(np.triu(molecule.bonds))
    lengths = [np.linalg.norm(p[pairs[:, 0]] - p[pairs[:, 1]], axis=1) for p in molecule.positions]
    assert np.abs(lengths[0] - lengths[1]).max() < 0.2  # a wrong numbering is off by far more


# --- SDF, XYZ, TFDS, GEOM


def test_sdf_records_that_cannot_be_are_refused_by_index(tmp_path):
    blocks = []
    for smiles in ("CCO", "CCO", "CC(=O)Oc1ccccc1C(O)=O", "C[N+](C)(C)CC([O-])=O"):
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        rdDistGeom.EmbedMolecule(mol, randomSeed=len(blocks) + 1)
        mol.SetProp("_Name", f"molecule {len(blocks)}")
        blocks.append(Chem.MolToMolBlock(mol, kekulize=len(blocks) != 2))
    flat = Chem.MolToMolBlock(Chem.MolFromSmiles("CCC"))
    lines = blocks[0].splitlines()
    bare = Chem.MolToMolBlock(Chem.RemoveHs(Chem.MolFromMolBlock(blocks[0])))
    cut = "\n".join(lines[: len(lines) // 2])
    records = [blocks[0], flat, blocks[1], bare, blocks[2], cut, blocks[3]]
    (tmp_path / "all.sdf").write_text("".join(f"{record.rstrip()}\n$$$$\n" for record in records))
    found = collect(molecule_sources.open_source(f"sdf:{tmp_path}/*.sdf").entries())
    assert {name: len(m.positions) for name, m in found.molecules.items()} == {
        "CCO": 2, "CC(=O)Oc1ccccc1C(=O)O": 1, "C[N+](C)(C)CC(=O)[O-]": 1
    }  # fmt: skip
    where = {said["first"][0].split()[0]: reason for reason, said in found.rejected.items()}
    assert "without coordinates" in where["1"] and "hydrogens" in where["3"] and "cannot read" in where["5"]


def test_xyz_frames_get_their_bonds_from_geometry(tmp_path):
    frames = []
    for smiles, charge in (("CC(=O)Nc1ccc(O)cc1", 0), ("CC(=O)[O-]", -1), ("C[NH3+]", 1), ("C#N", 0)):
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        rdDistGeom.EmbedMolecule(mol, randomSeed=1)
        rdForceFieldHelpers.MMFFOptimizeMolecule(mol)
        count, _, *rest = Chem.MolToXYZBlock(mol).strip().split("\n")
        frames.append("\n".join([count, f"name charge={charge}", *rest]))
    (tmp_path / "all.xyz").write_text("\n".join(frames) + "\n\n")
    found = collect(molecule_sources.open_source(f"xyz:{tmp_path}/all.xyz").entries())
    assert list(found.molecules) == ["CC(=O)Nc1ccc(O)cc1", "CC(=O)[O-]", "C[NH3+]", "C#N"]
    assert [int(m.charges.sum()) for m in found.molecules.values()] == [0, -1, 1, 0]


@pytest.mark.parametrize(
    "content, message",
    [
        ("3\nwater\nO 0 0 0\nH 0 0 1\n", "line 1: the file ends within this frame"),
        ("water\n", "line 1: 'water' is no number of atoms"),
        ("2\n\nH 0 0 0\nQq 0 0 1\n", "line 4: 'Qq 0 0 1' is no element and position"),
        ("2\n\nH 0 0\nH 0 0 1\n", "line 3"),
        ("1\nProperties=name:S:1:pos:R:3\nH 0 0 1\n", "line 2: Properties=name:S:1:pos:R:3 names no species"),
        ("", "it is empty"),
    ],
)
def test_a_damaged_xyz_file_is_refused_with_its_line(tmp_path, content, message):
    (tmp_path / "a.xyz").write_text(content)
    with pytest.raises(BadInput, match=message) as caught:
        prepare(MoleculeData(source=f"xyz:{tmp_path}/a.xyz"), tmp_path)
    assert "\n" not in str(caught.value)


SYMBOL = Chem.GetPeriodicTable().GetElementSymbol
XYZ_DIALECTS = {
    "plain": ("", "", "{0} {x} {y} {z}"),
    "byte order mark": ("\ufeff", "", "{0} {x} {y} {z}"),
    "deuterium": ("", "", "{d} {x} {y} {z}"),
    "Fortran": ("", "", "{0} {x:.9E} {y:.9D} {z:.9*}"),
    "labels": ("", "", "{0}{i} {x} {y} {z}"),
    "atomic numbers": ("", "", "{n} {x} {y} {z}"),
    "positions first": ("", "Properties=pos:R:3:species:S:1", "{x} {y} {z} {0}"),
    "forces first": ("", 'pbc="F F F" Properties=species:S:1:forces:R:3:pos:R:3', "{0} 1 2 {i} {x} {y} {z}"),
    "QM9": ("", "gdb 7\t1.5\t2.5", "{0}\t{x}\t{y}\t{z:.9*}\t-0.1"),
}


class Exponent(float):
    """A number that formats itself with Fortran's or QM9's exponents."""

    def __format__(self, form: str) -> str:
        if form[-1:] not in ("D", "*"):
            return super().__format__(form)
        return super().__format__(form[:-1] + "E").replace("E", {"D": "D", "*": "*^"}[form[-1]])


@pytest.mark.parametrize("dialect", XYZ_DIALECTS)
def test_dialects_of_xyz_give_the_same_molecules(dialect, tmp_path):
    start, comment, form = XYZ_DIALECTS[dialect]
    text, known = start, []
    for smiles in ("CCO", "CC#N", "ClC=O"):
        known.append(molecule_entry(smiles))
        atoms, points = known[-1].atoms.tolist(), known[-1].positions[0].tolist()
        rows = [
            form.format(
                s := SYMBOL(n),
                n=n,
                d={"H": "D"}.get(s, s),
                i=i,
                **dict(zip("xyz", map(Exponent, p), strict=True)),
            )
            for i, (n, p) in enumerate(zip(atoms, points, strict=True))
        ]
        text += "\n".join([str(len(rows)), comment, *rows, ""])
        text += f"10.5\t20.5\n{smiles}\t{smiles}\nInChI=1\n" if dialect == "QM9" else ""
    (tmp_path / "a.xyz").write_text(text, encoding="utf-8")
    found = collect(molecule_sources.open_source(f"xyz:{tmp_path}/a.xyz").entries())
    assert list(found.molecules) == ["CCO", "CC#N", "O=CCl"] and not found.rejected
    for molecule, entry in zip(found.molecules.values(), known, strict=True):
        points = entry.positions - entry.positions.mean(1, keepdims=True)
        assert molecule.atoms.tolist() == entry.atoms.tolist()
        np.testing.assert_allclose(molecule.positions, points, atol=1e-6)
    odd = dialect in ("deuterium", "labels", "positions first", "forces first", "QM9")
    assert len(found.notes()) == odd and all("in 3 of 3 entries" in note for note in found.notes())


@pytest.mark.parametrize(
    ("comment", "charge"),
    [
        ("energy=-1.5 charge=-1", -1),
        ('Properties=species:S:1:pos:R:3 total_charge="-1"', -1),
        ("Charge = +1.0 spin=1", 1),
        ("discharge=3 surcharge=2", 0),
    ],
)
def test_the_charge_of_a_frame(comment, charge, tmp_path):
    (tmp_path / "a.xyz").write_text(f"2\n{comment}\nO 0 0 0\nH 0 0 1\n")
    (entry,) = molecule_sources.open_source(f"xyz:{tmp_path}/a.xyz").entries()
    assert isinstance(entry, Entry) and entry.charge == charge


def test_sdf_titles_in_any_bytes(tmp_path):
    mol = Chem.AddHs(Chem.MolFromSmiles("CCO"))
    rdDistGeom.EmbedMolecule(mol, randomSeed=1)
    block = Chem.MolToMolBlock(mol).encode()
    titles = (b"4-\xb5 a", b"\xff\xfe", "β".encode())
    (tmp_path / "a.sdf").write_bytes(b"".join(t + block[block.index(b"\n") :] + b"$$$$\r\n" for t in titles))
    found = list(molecule_sources.open_source(f"sdf:{tmp_path}/a.sdf").entries())
    assert [entry.name for entry in found if isinstance(entry, Entry)] == ["4-\ufffd a", "\ufffd\ufffd", "β"]


def flat_block(smiles: str, header: str, drawn: bool = False) -> str:
    """A mol block of a flat molecule in its plane, or of a drawing with hydrogens."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    if drawn:
        rdDepictor.Compute2DCoords(mol)
    else:
        rdDistGeom.EmbedMolecule(mol, randomSeed=1)
        rdForceFieldHelpers.MMFFOptimizeMolecule(mol)
        conformer = mol.GetConformer()
        points = conformer.GetPositions() - conformer.GetPositions().mean(0)
        points = points @ np.linalg.svd(points)[2].T
        points[:, 2] = 0
        conformer.SetPositions(np.ascontiguousarray(points))
    lines = Chem.MolToMolBlock(mol).split("\n")
    return "\n".join([lines[0], header, *lines[2:]]) + "$$$$\n"


def test_flat_molecules_are_in_space_where_their_bonds_say_so(tmp_path):
    bare, flat, space = "  Program", "  Program 01012600002D", "  Program 01012600003D"
    records = [flat_block(smiles, bare) for smiles in ("c1ccncc1", "O", "C=O", "C#N")]
    records += [flat_block("c1ccccc1", flat), flat_block("C=C", space)]
    records += [flat_block(smiles, bare, drawn=True) for smiles in ("CC", "c1ccoc1", "OO", "FC(F)(F)F")]
    (tmp_path / "a.sdf").write_text("".join(records))
    found = collect(molecule_sources.open_source(f"sdf:{tmp_path}/a.sdf").entries())
    assert list(found.molecules) == ["c1ccncc1", "O", "C=O", "C#N", "C=C"]
    assert sorted(said["molecules"] for said in found.rejected.values()) == [1, 4]
    assert "in 4 of 10 entries flat coordinates" in found.notes()[0]


def test_tfds_rows_like_those_of_qm9(tmp_path):
    import tensorflow_datasets as tfds

    entries = [checked(molecule_entry(smiles))[0] for smiles in ("CCO", "CC#N", "NC=O", "C1CC1")]

    class Qm9OfTests(tfds.core.GeneratorBasedBuilder):
        """Four molecules."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            tensor = tfds.features.Tensor
            features = tfds.features.FeaturesDict(
                {
                    "num_atoms": tensor(shape=(), dtype=np.int64),
                    "charges": tensor(shape=(29,), dtype=np.int64),
                    "positions": tensor(shape=(29, 3), dtype=np.float32),
                }
            )
            return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i, molecule in enumerate(entries):
                n = len(molecule.atoms)
                yield (
                    i,
                    {
                        "num_atoms": n,
                        "charges": np.pad(molecule.atoms.astype(np.int64), (0, 29 - n)),
                        "positions": np.pad(molecule.positions[0], ((0, 29 - n), (0, 0))),
                    },
                )

    Qm9OfTests(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    dataset = prepare(MoleculeData(source="tfds:qm9_of_tests", data_dir=str(tmp_path)), tmp_path)
    assert (dataset.path / "molecules.smi").read_text().split() == ["CCO", "CC#N", "NC=O", "C1CC1"]
    with pytest.raises(BadInput, match="'nights'"):
        prepare(MoleculeData(source="tfds:qm9_of_tests:nights", data_dir=str(tmp_path)), tmp_path)


@pytest.fixture
def geom(tmp_path):
    """A folder like GEOM's: two files of objects of molecules, and files that must not be opened."""
    folder = tmp_path / "geom"
    folder.mkdir()
    parts = [("CCO", "CC(=O)[O-]"), ("CCCC", "NCCO", "OC=O")]
    for number, names in enumerate(parts):
        batches = []
        for smiles in names:
            entry = molecule_entry(smiles, conformers=4)
            conformers = [
                {"xyz": np.column_stack([entry.atoms, xyz]).tolist(), "boltzmannweight": weight, "geom_id": 7}
                for xyz, weight in zip(entry.positions, (0.1, 0.5, 0.3, 0.1), strict=True)
            ]
            charge = int(entry.charges.sum())
            batches.append({smiles: {"conformers": conformers, "charge": charge, "datasets": ["x"]}})
        (folder / f"drugs_crude_{number}.msgpack").write_bytes(
            b"".join(bytes(msgpack.packb(batch) or b"") for batch in batches)
        )
    (folder / "drugs_featurized.msgpack").write_bytes(b"\xc1 never read")
    (folder / "CCO.pickle").write_bytes(b"\x80 never read")
    return folder


def test_geom_gives_the_likeliest_conformations(geom, tmp_path):
    dataset = prepare(MoleculeData(source=f"geom:{geom}", conformations=2), tmp_path)
    assert (dataset.path / "molecules.smi").read_text().split() == [
        "CCO",
        "CC(=O)[O-]",
        "CCCC",
        "NCCO",
        "O=CO",
    ]
    rows = everything(dataset)
    ethanol = molecule_entry("CCO", conformers=4).positions[[1, 2]]
    mine = rows["positions"][rows["molecule"] == 0][:, :9]
    np.testing.assert_allclose(mine, ethanol - ethanol.mean(1, keepdims=True), atol=1e-5)


def test_a_damaged_geom_file_is_refused(geom, tmp_path):
    file = geom / "drugs_crude_1.msgpack"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(BadInput, match=r"drugs_crude_1.msgpack is damaged after 2 molecules \(.*ends within"):
        prepare(MoleculeData(source=f"geom:{geom}"), tmp_path)
    file.write_bytes(b"\xc1" * 50)
    with pytest.raises(BadInput, match="is damaged after 0 molecules"):
        prepare(MoleculeData(source=f"geom:{geom}"), tmp_path)
    for path in geom.glob("drugs_crude*"):
        path.unlink()
    with pytest.raises(BadInput, match=r"has no .msgpack file of geometries"):
        prepare(MoleculeData(source=f"geom:{geom}"), tmp_path)


# --- impossible molecules


def spoiled(**changes):
    entry = molecule_entry("CCO", conformers=2)
    return Entry(**{**vars(entry), **changes})


def spoil_cases():
    fine = molecule_entry("CCO", conformers=2)
    far, near, nan = (fine.positions.copy() for _ in range(3))
    far[:, 8] += 5.0
    near[:, 8] = near[:, 7] + 0.1
    nan[:, 2, 1] = np.nan
    bonds = fine.bonds
    water = {
        "atoms": np.array([8, 1, 1]),
        "positions": np.array([[[0, 0, 0], [0.28, 0.92, 0], [-0.28, 0.92, 0]]]),
        "bonds": np.array([[0, 1, 1], [0, 2, 1]]),
        "charges": np.zeros(3, int),
    }
    return [
        ({"positions": nan}, "not finite"),
        ({"positions": np.full_like(nan, np.inf)}, "not finite"),
        ({"atoms": np.array([6, 6, 200, *fine.atoms[3:]])}, "atomic number outside 1..118"),
        ({"atoms": np.array([6, 6, 0, *fine.atoms[3:]])}, "atomic number outside 1..118"),
        ({"bonds": np.array([*bonds, [0, 9, 1]])}, "atom that is not there"),
        ({"bonds": np.array([*bonds, [-1, 2, 1]])}, "atom that is not there"),
        ({"bonds": np.array([*bonds, [2, 2, 1]])}, "to itself, or listed twice"),
        ({"bonds": np.array([*bonds, bonds[0][[1, 0, 2]]])}, "to itself, or listed twice"),
        ({"bonds": np.array([[0, 1, 5], *bonds[1:]])}, "order that is not"),
        ({"bonds": np.array([[0, 1, 3], *bonds[1:]])}, "impossible valence"),
        ({"bonds": np.array([[0, 1, 4], *bonds[1:]])}, "impossible valence"),
        ({"charges": np.array([0, 0, -1, 0, 0, 0, 0, 0, 0])}, "impossible valence"),
        ({"charges": np.array([1, 0, 0, 0, 0, 0, 0, 0, 0])}, "impossible valence"),
        ({"atoms": np.array([6, 6, 7, *fine.atoms[3:]])}, "unpaired electrons"),
        ({"bonds": bonds[:-1]}, "not bonded to the rest"),
        ({"positions": far}, "too far apart"),
        ({"positions": near}, "closer than 0.5"),
        (water, "at bonding distance without a bond"),
        ({"atoms": fine.atoms[:1], "positions": fine.positions[:, :1], "bonds": bonds[:0]}, "fewer than 2"),
        ({"charges": None, "charge": 3}, "no bond orders fit"),
        ({"bonds": None, "charges": None, "charge": 1}, "(no bond orders fit|unpaired)"),
    ]


@pytest.mark.parametrize("changes, message", spoil_cases())
def test_impossible_molecules_are_refused(changes, message):
    assert len(checked(spoiled())[0].positions) == 2
    with pytest.raises(Refused, match=message):
        checked(spoiled(**changes))


def test_one_bad_conformation_does_not_cost_the_others():
    positions = molecule_entry("CCO", conformers=4).positions
    positions[1, 0, 0], positions[2, 8] = np.nan, positions[2, 8] + 3
    molecule, bad = checked(spoiled(positions=positions))
    assert bad == {"coordinates that are not finite": [1], "bonded atoms too far apart": [2]}
    expected = positions[[0, 3]] - positions[[0, 3]].mean(1, keepdims=True)
    np.testing.assert_allclose(molecule.positions, expected, atol=1e-6)


def archive(path, entries, **changes):
    """An npz file of entries in the layout of the shared archives."""
    arrays = {
        "Z": np.concatenate([e.atoms for e in entries]).astype(np.uint8),
        "ptr": np.cumsum([0, *(len(e.atoms) for e in entries)]),
        "pos": np.concatenate([e.positions.reshape(-1, 3) for e in entries]).astype(np.float32),
        "n_conf": np.array([len(e.positions) for e in entries]),
        "bonds": np.concatenate([e.bonds for e in entries]),
        "bond_ptr": np.cumsum([0, *(len(e.bonds) for e in entries)]),
        "formal_charge": np.concatenate([e.charges for e in entries]),
        "name": np.array([e.name for e in entries]),
    }
    np.savez(path, **{name: a for name, a in {**arrays, **changes}.items() if a is not None})
    return f"npz:{path}"


@pytest.fixture(scope="module")
def four():
    return [molecule_entry(smiles, name=smiles, conformers=2) for smiles in ("CCO", "CC#N", "NC=O", "C1CC1")]


def test_the_refused_are_counted_with_their_index(four, tmp_path):
    broken = Entry("broken", four[1].atoms, four[1].positions * np.nan, four[1].bonds, four[1].charges)
    dataset = prepare(
        MoleculeData(source=archive(tmp_path / "a.npz", [four[0], broken, *four[1:]])), tmp_path
    )
    reason = "coordinates that are not finite"
    assert dataset.info["rejected"] == {reason: {"molecules": 1, "conformations": 2, "first": ["1 broken"]}}
    assert dataset.info["notes"] == [
        f"rejected 2 of 10 conformations, with them 1 of 5 molecules: 2 for {reason} (in 1 broken)"
    ]
    only = archive(tmp_path / "b.npz", [broken, broken])
    with pytest.raises(BadInput, match=r"no molecule to learn from: rejected 4 .* \(in 0 broken; 1 broken\)"):
        prepare(MoleculeData(source=only), tmp_path)
    with pytest.raises(BadInput, match=r"has 2 molecule\(s\)"):
        prepare(MoleculeData(source=archive(tmp_path / "c.npz", four[:2])), tmp_path)
    assert not list((tmp_path / "data").glob("*.partial"))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"pos": None}, "no array 'pos'"),
        ({"ptr": np.array([0, 9, 15, 21])}, "ptr does not cut Z"),
        ({"ptr": np.array([0, 15, 9, 21, 30])}, "ptr does not cut Z"),
        ({"n_conf": np.array([2, 2, 2, 3])}, "pos has 60 positions and its molecules need 69"),
        ({"n_conf": np.array([2, 2])}, "n_conf has 2 entries"),
        ({"n_conf": np.array([2, 0, 2, 2])}, "without conformations"),
        ({"bond_ptr": None}, "belong together"),
        ({"bonds": np.ones((26, 2), int)}, "bonds has shape"),
        ({"formal_charge": np.zeros(3, int)}, "formal_charge has 3 entries"),
        ({"Z": np.array([{}] * 30)}, "cannot be read"),
        ({"pos": np.array([["x"] * 3] * 60)}, "pos holds <U1"),
    ],
)
def test_archives_that_do_not_fit_are_refused(four, tmp_path, changes, message):
    sound = archive(tmp_path / "a.npz", four)
    assert len(list(molecule_archives.npz(tmp_path / "a.npz"))) == 4, sound
    with pytest.raises(BadInput, match=message) as caught:
        prepare(MoleculeData(source=archive(tmp_path / "b.npz", four, **changes)), tmp_path)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_archives_are_refused(four, tmp_path):
    whole = Path(archive(tmp_path / "a.npz", four).removeprefix("npz:"))
    for content in (b"", b"no zip", whole.read_bytes()[:500], whole.read_bytes()[:-40]):
        (tmp_path / "b.npz").write_bytes(content)
        with pytest.raises(BadInput, match=r"b.npz cannot be read"):
            prepare(MoleculeData(source=f"npz:{tmp_path}/b.npz"), tmp_path)
    damaged = bytearray(whole.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    (tmp_path / "b.npz").write_bytes(damaged)
    with pytest.raises(BadInput):
        prepare(MoleculeData(source=f"npz:{tmp_path}/b.npz"), tmp_path)


@pytest.mark.parametrize(
    "source, message",
    [
        ("molecules", "not one of"),
        ("sdf:", "not one of"),
        ("builtin:drugs", "builtin:molecules"),
        ("sdf:/nowhere/*.sdf", "matches no file"),
        ("xyz:/nowhere/*.xyz", "matches no file"),
        ("npz:/nowhere/x.npz", "cannot be read"),
        ("geom:/nowhere", "has no .msgpack file"),
        ("tfds:no_such_dataset_here", "cannot be read"),
        ("rows:/nowhere", "manifest.json"),
    ],
)
def test_sources_that_do_not_exist_are_refused(source, message, tmp_path):
    with pytest.raises(BadInput, match=message) as caught:
        prepare(MoleculeData(source=source, data_dir=str(tmp_path)), tmp_path)
    assert "\n" not in str(caught.value)


def test_an_sdf_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "a.sdf").write_bytes(bytes(range(256)) * 20)
    with pytest.raises(BadInput, match=r"(no molecule to learn from|no records|not an SD file)"):
        prepare(MoleculeData(source=f"sdf:{tmp_path}/a.sdf"), tmp_path)
    (tmp_path / "a.sdf").write_bytes(b"")
    with pytest.raises(BadInput, match=r"(no records|not an SD file)"):
        prepare(MoleculeData(source=f"sdf:{tmp_path}/a.sdf"), tmp_path)


def test_settings_are_checked_before_anything_is_read():
    data = MoleculeData()
    assert resolve(data, template(data)) == data
    for changes, message in [
        ({"conformations": 0}, "conformations=0"),
        ({"validation": 0.5, "test": 0.5}, "leave nothing to train on"),
        ({"max_atoms": -1}, "max_atoms=-1 must be at least 0"),
    ]:
        with pytest.raises(BadInput, match=message):
            resolve(data, changes)


def test_without_rdkit_one_line_says_what_to_install(monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name == "rdkit" or name.startswith("rdkit.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(BadInput, match=r"pip install 'collapse_jax\[molecules\]'"):
        prepare(MoleculeData(), tmp_path)


def test_rows_have_the_form_that_the_model_expects():
    assert molecules.row_spec(5) == {
        "atoms": ((5,), "uint8"),
        "positions": ((5, 3), "float32"),
        "bonds": ((5, 5), "uint8"),
        "charges": ((5,), "int8"),
        "count": ((), "int32"),
        "molecule": ((), "int32"),
    }
