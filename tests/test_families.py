"""One protocol, every family: the same test for language models, images and molecules, with no case of any.

Each family says what a tiny experiment of it is; the rest is shared.
"""

import contextlib
import io
import itertools
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import outcome
from flax import nnx

from collapse_jax import cli, experiment, families, faults, files, rng, run
from collapse_jax import mesh as meshes
from collapse_jax.data.mixture import in_order
from collapse_jax.lanes import over, pick, stack
from collapse_jax.sampling.writer import settled
from collapse_jax.training.evaluate import Evaluator
from collapse_jax.training.step import Trainer

SOURCE = Path(__file__).parents[1] / "collapse_jax"

TINY = {
    "transformer": {
        "data": {"row_length": 32, "vocab_size": 300, "max_rows": 48},
        "model": {"layers": 1, "width": 16, "heads": 2, "context": 32, "vocab_size": 300},
    },
    "vae": {"data": {"source": "builtin:digits", "max_rows": 64}, "model": {"channels": (8, 8), "latent": 4}},
    "diffusion": {
        "data": {"source": "builtin:digits", "max_rows": 64},
        "model": {"patch": 4, "layers": 1, "width": 16, "heads": 2, "noising": {"steps": 8}},
    },
    "conformation": {
        "data": {"source": "builtin:molecules", "max_rows": 48, "conformations": 2, "max_atoms": 10},
        "model": {"hidden": 8, "local_layers": 1, "global_layers": 1, "noising": {"steps": 6}},
    },
}


def settings(kind: str) -> dict:
    config = experiment.template(kind)
    config.arms = {"replace": {"workflow": "replace"}}
    config.generations, config.seeds, config.rows = 2, (0, 1), 32
    config.train.batch_size, config.train.epochs, config.train.checkpoint_every = 8, 2, 3
    config.train.ema = 0.9
    config.writing.batch_size, config.writing.rows_per_shard = 16, 16
    config.evaluate.batch_size, config.evaluate.rows = 8, 12
    config.update(TINY[kind])
    return config


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """Runs of one experiment share compiled programs."""
    before = jax.config.jax_persistent_cache_min_compile_time_secs  # type: ignore[attr-defined]
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("programs")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    yield
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before)


@pytest.fixture(scope="module", params=list(TINY))
def kind(request):
    if request.param == "conformation":
        pytest.importorskip("rdkit")
    return request.param


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def made(kind, store):
    """(family, dataset, the trained model of one step, its lanes of two seeds)."""
    jax.set_mesh(None)
    resolved = experiment.resolve(settings(kind))
    dataset, family, _ = run.prepare(resolved, store)
    trainer = Trainer(family, resolved.train, meshes.make(), 2)
    keys = stack([trainer.fresh_key(seed, 1) for seed in (0, 1)], 2)
    state = trainer.init(keys)
    rows = dataset.rows("train").read(0, 8)
    batch = {name: np.stack([x, x]) for name, x in rows.items()}
    placed = meshes.place(trainer.mesh, batch, "seed", "data")
    state, _ = trainer.step(state, placed, np.float32(4), keys)
    models = trainer.fitted(state)
    return family, dataset, pick(models, 0), models


@pytest.fixture(autouse=True)
def on_mesh(no_mesh):
    meshes.make()


def keys(count):
    return jax.vmap(lambda i: jax.random.fold_in(rng.key("test"), i))(np.arange(count))


def placed(*trees, axes=("data",)):
    """The trees as the chain hands them to a family."""
    return jax.device_put(trees, jax.NamedSharding(jax.sharding.get_mesh(), jax.P(*axes)))


@pytest.mark.slow
def test_the_state_of_a_fit_can_be_described_without_making_it(made):
    family, _, model, _ = made
    described = jax.eval_shape(lambda: family.init(nnx.Rngs(0)))
    assert jax.tree.structure(described) == jax.tree.structure(model)
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(model))
    assert hash(family) == hash(family) and family.items[1] >= 1


@pytest.mark.slow
def test_a_row_of_weight_zero_does_not_count(made):
    family, dataset, model, _ = made
    rows, evaluate = dataset.rows("test").read(0, 6), jax.jit(family.evaluate)
    weight = np.array([1, 1, 0, 1, 0, 0], np.float32)
    other = {name: np.where(_along(weight, x), x, x[::-1]) for name, x in rows.items()}
    first, second = (evaluate(model, *placed(batch, weight, keys(6))) for batch in (rows, other))
    assert "test_loss" in first
    for name, (total, count) in first.items():
        np.testing.assert_allclose(total, second[name][0], rtol=1e-4, err_msg=name)
        assert float(count) == float(second[name][1]) > 0
    assert set(family.derive({k: float(s / n) for k, (s, n) in first.items()})) <= set(family.units)


def _along(weight, x):
    return weight.astype(bool).reshape(-1, *[1] * (x.ndim - 1))


@pytest.mark.slow
def test_an_evaluation_is_the_same_in_any_batches(made):
    family, dataset, model, _ = made
    source, found = dataset.rows("test"), []
    for size in (4, 6):
        evaluator = Evaluator(family, meshes.make())
        [means] = evaluator(stack([model], 1), [in_order(source, 0, min(6, len(source)), size)])
        found.append(means)
    for name, value in found[0].items():
        assert value == pytest.approx(found[1][name], rel=1e-4), name


@pytest.mark.slow
def test_a_row_depends_on_its_key_and_condition_alone(made):
    family, dataset, model, _ = made
    rows, sample = dataset.rows("train").read(0, 8), jax.jit(family.sample)
    whole = jax.tree.map(np.asarray, sample(model, *placed(keys(8), rows)))
    order = np.array([5, 2, 7, 0, 1, 6, 3, 4])
    given = placed(keys(8)[order], {k: x[order] for k, x in rows.items()})
    turned = jax.tree.map(np.asarray, sample(model, *given))
    stored, finite_B = settled(whole, family.spec)
    assert {k: (x.shape[1:], str(x.dtype)) for k, x in stored.items()} == family.spec and finite_B.all()
    for name, x in whole.items():
        if not family.spec[name][1].startswith("float"):
            np.testing.assert_array_equal(stored[name], x)
        np.testing.assert_allclose(
            x[order].astype(float), turned[name].astype(float), atol=1e-3, err_msg=name
        )


@pytest.mark.slow
def test_seeds_side_by_side_are_seeds_alone(made):
    family, dataset, _, models = made
    rows = dataset.rows("train").read(0, 8)
    both = {name: np.stack([x, x]) for name, x in rows.items()}
    weight = np.ones((2, 8), np.float32)
    given = placed(both, weight, stack([keys(8), keys(8)], 2), axes=("seed", "data"))
    found = jax.jit(over(family.evaluate, 2, (0, 0, 0, 0)))(models, *given)
    for seed in (0, 1):
        alone = jax.jit(family.evaluate)(pick(models, seed), *placed(rows, weight[0], keys(8)))
        for name, (total, _) in alone.items():
            np.testing.assert_allclose(found[name][0][seed], total, rtol=1e-4, err_msg=name)


CONFIG = """
import sys
sys.path.insert(0, {tests!r})
from test_families import settings
def get_config():
    return settings({kind!r})
"""


@pytest.fixture(scope="module")
def whole(kind, store, tmp_path_factory):
    """(arguments, workdir, what was said) of an experiment that nothing happened to."""
    folder = tmp_path_factory.mktemp(kind)
    config = folder / "tiny.py"
    config.write_text(CONFIG.format(tests=str(Path(__file__).parent), kind=kind))
    arguments = [f"--config={config}", f"--config.data.source=rows:{_rows(kind, store)}"]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert cli.main(["run", *arguments, f"--workdir={folder / 'run'}"]) == 0
    return arguments, folder / "run", said.getvalue()


def _rows(kind, store):
    resolved = experiment.resolve(settings(kind))
    return families.kind(kind).prepare(resolved.data, store).path


def test_a_run_compiles_nothing_after_generation_one_and_measures_what_it_has_units_for(whole):
    _, workdir, said = whole
    assert re.search(r"compiled \d+ programs for generation 1, 0 after it", said)
    records = [json.loads(line) for line in (workdir / "records.jsonl").read_text().splitlines()]
    assert {"test_loss", "train_loss", "sample_loss_under_first"} <= {r["metric"] for r in records}
    without = {r["metric"] for r in records if not r["unit"]} - {"train_loss"}
    units = files.read_json(workdir / "experiment.json")["units"]
    assert not {m for m in without if m not in units}
    assert all((path / "show.json").is_file() for path in (workdir / "generations").iterdir())


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL; test_faults kills processes for real."""


@pytest.mark.slow
@pytest.mark.parametrize(("point", "times"), [("fit/step", 7), ("sample/shard", 3)])
def test_a_killed_run_resumes_to_the_bit(whole, tmp_path, monkeypatch, point, times):
    arguments, workdir, _ = whole
    left = itertools.count(times - 1, -1)

    def kill(name):
        if name == point and next(left) == 0:
            raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(faults, "point", kill)
        cli.main(["run", *arguments, f"--workdir={tmp_path}"])
    assert cli.main(["run", *arguments, f"--workdir={tmp_path}"]) == 0
    assert outcome(tmp_path) == outcome(workdir)


def test_samples_can_be_looked_at(whole, capsys, tmp_path, monkeypatch):
    _, workdir, _ = whole
    monkeypatch.chdir(tmp_path)
    name = files.read_json(workdir / "experiment.json")["ids"]["replace"]["0"][1]
    assert cli.main(["sample", str(workdir), f"--generation={name}", "-n", "3"]) == 0
    assert capsys.readouterr().out.strip()


def test_no_family_is_named_where_all_are_meant():
    shared = [*SOURCE.glob("*.py"), *(SOURCE / "training").glob("*.py"), SOURCE / "sampling" / "writer.py"]
    words = [name for name in families.KINDS if name != "transformer"] + ["token", "image", "molecule"]
    lines = [
        f"{path.name}: {line.strip()}"
        for path in shared
        for line in path.read_text().splitlines()
        if any(re.search(rf"\b{word}s?\b", line) for word in words)
    ]
    assert not lines, lines
