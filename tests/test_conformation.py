# pyright: reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false, reportAttributeAccessIssue=false
"""The conformation family: its loss, bound and samples against exact laws, their symmetries, and what it refuses."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from forced_devices import run as forced
from gaussian_oracle import bound, law_of_samples
from scipy.stats import ortho_group
from test_equivariant import DATA, molecules

from collapse_jax import config as settings
from collapse_jax.config import BadInput
from collapse_jax.data.molecules import row_spec
from collapse_jax.families import conformation
from collapse_jax.families.conformation import UNITS, ConformationFamily, Data, Model, Sample, build
from collapse_jax.models import diffusion
from collapse_jax.models.diffusion import Noising
from collapse_jax.sampling import denoise

SIZE, ROWS = 9, 8
MODEL = Model(
    hidden=8, local_layers=1, global_layers=1, radial=4, noising=Noising(20, target="v", bound_draws=4)
)
FAMILY = ConformationFamily(MODEL, Sample(held_out=2, conformations=3), 1.5, (5, SIZE))


def rows(seed=0):
    batch = molecules(seed)
    del batch["x"]
    there = np.arange(SIZE)[None, :, None] < batch["count"][:, None, None]
    x = np.random.default_rng(seed).normal(size=(ROWS, SIZE, 3)).astype(np.float32) * there * 1.5
    x -= there * (x.sum(1) / batch["count"][:, None])[:, None]
    return {**batch, "positions": x, "molecule": np.arange(ROWS, dtype=np.int32)}


@pytest.fixture(scope="module")
def model():
    made = jax.jit(lambda: FAMILY.init(nnx.Rngs(0)))()
    made.layers.along[...] = made.layers.along[...] * 1000
    return made


@pytest.fixture(scope="module")
def still(model):
    """A network that moves no atom, v = 0: the optimal one for independent Gaussian coordinates."""
    return jax.tree.map(jnp.zeros_like, model)


@pytest.fixture(scope="module")
def compiled():
    return {name: jax.jit(getattr(FAMILY, name)) for name in ("loss", "evaluate", "sample")}


def keys(count=ROWS, seed=0):
    return jax.random.split(jax.random.key(seed), count)


@pytest.mark.slow
def test_the_network_that_moves_nothing_scores_as_a_gaussian(compiled, still):
    """Positions from N(0, unit^2) without their centre, for which v = 0 is the best estimate."""
    draws, total, weight = 400, 0.0, 0.0
    for seed in range(draws):
        batch = rows(seed)
        s, w = compiled["evaluate"](still, batch, np.ones(ROWS, np.float32), keys(seed=seed))["test_loss"]
        total, weight = total + float(s), weight + float(w)
        assert float(w) == 3 * (batch["count"] - 1).sum()
    expected = sum(bound(MODEL.noising, 0.0, 1.0)) + math.log(FAMILY.unit)
    assert total / weight == pytest.approx(expected, abs=0.04)


def test_the_loss_of_that_network_is_the_mean_square_of_its_aim(compiled, still):
    """E |signal noise - sigma x_0|^2 / dims = 1 for such positions; rows weigh alike, whatever their size."""
    found = [compiled["loss"](still, rows(s), jax.random.key(s), jnp.float32(0)) for s in range(400)]
    total, weight = np.sum([(float(s), float(w)) for s, w, _ in found], 0)
    assert weight == 400 * ROWS
    assert total / weight == pytest.approx(1.0, abs=0.03)


def test_the_loss_is_the_error_of_the_network_at_the_drawn_times(compiled, model):
    batch, key = rows(1), jax.random.key(3)
    key_t, key_noise = jax.random.split(key)
    t_B = np.asarray(diffusion.draw_times(key_t, ROWS, MODEL.noising))
    noise = np.asarray(jax.random.normal(key_noise, batch["positions"].shape), float)
    signal, sigma = diffusion.levels(MODEL.noising)
    network, total = jax.jit(lambda *given: model(*given, FAMILY.unit)), 0.0
    for row, (t, n) in enumerate(zip(t_B, batch["count"], strict=True)):
        x_0 = batch["positions"][row, :n].astype(float) / FAMILY.unit
        e = noise[row, :n] - noise[row, :n].mean(0)
        alone = {k: v[row : row + 1, ...] for k, v in batch.items()}
        x_t = np.zeros((1, SIZE, 3), np.float32)
        x_t[0, :n] = signal[t] * x_0 + sigma[t] * e
        level = (jnp.full(1, z[t], jnp.float32) for z in (signal, sigma))
        v = np.asarray(network(alone, x_t, *level))[0, :n]
        total += np.sum((signal[t] * e - sigma[t] * x_0 - v) ** 2) / (3 * (n - 1))
    found, weight, _ = compiled["loss"](model, batch, key, jnp.float32(0))
    assert float(found) == pytest.approx(total, rel=1e-4) and float(weight) == ROWS


def turned(batch, seed):
    """The batch turned, mirrored by odd seeds, moved and with its atoms in another order; what was done."""
    turn = ortho_group.rvs(3, random_state=seed).astype(np.float32)
    draw, new = np.random.default_rng(seed), {k: v.copy() for k, v in batch.items()}
    orders = np.tile(np.arange(SIZE), (ROWS, 1))
    for row, n in enumerate(batch["count"]):
        orders[row, :n] = draw.permutation(n)
        for name in ("atoms", "charges", "positions"):
            new[name][row] = batch[name][row][orders[row]]
        new["bonds"][row] = batch["bonds"][row][np.ix_(orders[row], orders[row])]
        new["positions"][row, :n] = new["positions"][row, :n] @ turn + np.float32(seed)
    return new, turn, orders


def test_neither_density_nor_sampler_know_place_orientation_or_order(model, monkeypatch):
    """The noise turned and reordered with the molecule, every term of the bound keeps its value and a sample turns."""
    usual = diffusion.row_noise

    @jax.jit
    def outcome(batch, turn, orders):
        def row_noise(keys_B, index, shape):
            return jnp.take_along_axis(usual(keys_B, index, shape), orders[..., None], 1) @ turn

        monkeypatch.setattr(diffusion, "row_noise", row_noise)
        monkeypatch.setattr(denoise, "row_noise", row_noise)
        scored = FAMILY.evaluate(model, batch, jnp.ones(ROWS), keys())
        return scored, FAMILY.sample(model, keys(), batch)["positions"]

    batch = rows(4)
    scored, drawn = outcome(batch, np.eye(3, dtype=np.float32), np.tile(np.arange(SIZE), (ROWS, 1)))
    for seed in range(1, 5):
        new, turn, orders = turned(batch, seed)
        found, moved = outcome(new, turn, orders)
        for name, (total, weight) in scored.items():
            assert float(found[name][0] / weight) == pytest.approx(float(total / weight), abs=1e-5)
        expected = np.take_along_axis(np.asarray(drawn), orders[..., None], 1) @ turn
        np.testing.assert_allclose(np.asarray(moved), expected, atol=2e-5)


def test_samples_have_the_graphs_of_the_real_rows_and_no_centre_of_mass(compiled, model):
    batch = rows(2)
    drawn = jax.tree.map(np.asarray, compiled["sample"](model, keys(), batch))
    assert {k: (v.shape[1:], str(v.dtype)) for k, v in drawn.items()} == FAMILY.spec == row_spec(SIZE)
    for name in ("atoms", "charges", "bonds", "count", "molecule"):
        np.testing.assert_array_equal(drawn[name], batch[name])
    absent = np.arange(SIZE)[None] >= batch["count"][:, None]
    assert not drawn["positions"][absent].any()
    np.testing.assert_allclose(drawn["positions"].sum(1), 0, atol=1e-4)


def test_a_sample_depends_on_its_key_and_graph_alone(compiled, model):
    batch, order = rows(2), np.array([3, 0, 7, 1, 6, 2, 5, 4])
    drawn = np.asarray(compiled["sample"](model, keys(), batch)["positions"])
    other = {k: v[order] for k, v in batch.items()}
    other["positions"] = np.zeros_like(other["positions"])
    again = np.asarray(compiled["sample"](model, keys()[order], other)["positions"])
    np.testing.assert_allclose(again, drawn[order], atol=1e-5)


def test_samples_of_the_network_that_moves_nothing_are_gaussian(compiled, still):
    drawn, count = [], 0
    for seed in range(40):
        batch = rows(seed)
        drawn.append(np.asarray(compiled["sample"](still, keys(seed=seed), batch)["positions"], float))
        count += 3 * (batch["count"] - 1).sum()
    spread = math.sqrt(np.sum(np.square(drawn)) / count)
    noising = MODEL.noising
    bars = diffusion.alpha_bars(noising)
    assert bars[-1] < 1e-3
    _, variance = law_of_samples(noising, 0.0, 1.0)
    assert spread == pytest.approx(FAMILY.unit * math.sqrt(variance), rel=0.03)


def test_rows_of_weight_zero_do_not_count(compiled, model):
    batch = rows()
    weights = np.array([1, 0] * (ROWS // 2), np.float32)
    some = compiled["evaluate"](model, batch, weights, keys())
    spoilt = {**batch, "positions": batch["positions"] * (2 - weights)[:, None, None]}
    again = compiled["evaluate"](model, spoilt, weights, keys())
    for name, (total, weight) in some.items():
        assert tuple(map(float, again[name])) == pytest.approx((float(total), float(weight)))


@pytest.mark.slow
def test_a_bond_length_is_learned():
    """Diatomic molecules of 1.3 Å: after some steps samples have that length."""
    draw = np.random.default_rng(0)
    two = dataclasses.replace(FAMILY, caps=(2,), unit=0.65, model=dataclasses.replace(MODEL, global_layers=0))
    spec = two.spec

    def batch(count):
        made = {k: np.zeros((count, *shape), dtype) for k, (shape, dtype) in spec.items()}
        made["atoms"][:], made["count"][:] = 7, 2
        made["bonds"][:, 0, 1] = made["bonds"][:, 1, 0] = 3
        way = draw.normal(size=(count, 3))
        way *= (0.65 + 0.01 * draw.normal(size=(count, 1))) / np.linalg.norm(way, axis=1, keepdims=True)
        made["positions"][:, 0], made["positions"][:, 1] = way, -way
        return made

    tx = optax.adam(5e-3)

    @jax.jit
    def step(model, state, rows, key):
        loss, grads = jax.value_and_grad(lambda m: two.loss(m, rows, key, 0.0)[0] / 32)(model)
        updates, state = tx.update(grads, state, model)
        return optax.apply_updates(model, updates), state, loss

    net = jax.jit(lambda: two.init(nnx.Rngs(1)))()
    state = tx.init(net)
    for i in range(300):
        net, state, _ = step(net, state, batch(32), jax.random.key(i))
    x = np.asarray(jax.jit(two.sample)(net, keys(200), batch(200))["positions"])
    lengths = np.linalg.norm(x[:, 0] - x[:, 1], axis=1)
    assert np.median(lengths) == pytest.approx(1.3, abs=0.05)
    assert np.quantile(np.abs(lengths - 1.3), 0.8) < 0.25


@pytest.mark.slow
def test_many_devices_and_seeds_side_by_side_give_the_numbers_of_one():
    program = """
import json, sys
sys.path.insert(0, "tests")
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec as P
from collapse_jax import mesh as meshes
from collapse_jax.lanes import over
from test_conformation import FAMILY, ROWS, keys, rows

def init(key):
    model = FAMILY.init(nnx.Rngs(key))
    model.layers.along[...] = model.layers.along[...] * 1000
    return model

def outcome(model, batch, keys_B):
    loss = lambda model: FAMILY.loss(model, batch, jax.random.key(1), 0.0)[0]
    ones = jnp.ones_like(batch["count"], jnp.float32)
    return jax.value_and_grad(loss)(model), FAMILY.evaluate(model, batch, ones, keys_B)

seeds, batches = jax.random.split(jax.random.key(3), 2), [rows(1), rows(2)]
keys_GB = jnp.stack([keys(seed=4), keys(seed=5)])
alone = jax.jit(lambda key, batch, keys_B: outcome(init(key), batch, keys_B))
expected = [alone(seeds[i], batches[i], keys_GB[i]) for i in range(2)]
mesh = meshes.make(data=2, seed=2, fsdp=True)
put = lambda x, *axes: jax.device_put(x, NamedSharding(mesh, P(*axes)))
models = jax.jit(over(init, 2, (0,)))(put(seeds, "seed"))
whole = put(jax.tree.map(lambda *x: np.stack(x), *batches), "seed", "data")
found = jax.jit(over(outcome, 2, (0, 0, 0)))(models, whole, put(keys_GB, "seed", "data"))
worst = 0.0
for i in range(2):
    for a, b in zip(jax.tree.leaves(expected[i]), jax.tree.leaves(found), strict=True):
        a, b = np.asarray(a, float), np.asarray(b, float)[i]
        worst = max(worst, float(np.max(np.abs(a - b) / (1 + np.abs(a)))))
print(json.dumps(worst))
"""
    assert forced(program, devices=4) < 1e-5


@pytest.fixture(scope="module")
def spice(tmp_path_factory):
    pytest.importorskip("rdkit")
    file = DATA / "spice-des-monomers" / "small" / "des_monomers_20.npz"
    if not file.exists():
        pytest.skip(f"{file} is not there")
    data = Data(source=f"npz:{file}", conformations=4, validation=0.2, test=0.2)
    return data, conformation.prepare(data, tmp_path_factory.mktemp("store"))


@pytest.mark.slow
def test_a_generation_of_real_molecules_is_judged_and_shown(spice):
    data, dataset = spice
    made = build(MODEL, data, FAMILY.sampling, dataset)
    assert made.spec == dataset.spec and hash(made) == hash(build(MODEL, data, FAMILY.sampling, dataset))
    real, test = (dataset.rows(name).read(0, dataset.row_count(name)) for name in ("train", "test"))
    square = sum(np.sum(x[:n] ** 2) for x, n in zip(real["positions"], real["count"], strict=True))
    assert made.unit == pytest.approx(math.sqrt(square / (3 * np.sum(real["count"] - 1))), rel=5e-3)
    weights = jax.jit(lambda: made.init(nnx.Rngs(0)))()
    found = made.measure(weights, [real], [real], [test])
    assert set(found) <= set(UNITS) and all(math.isfinite(x) for x in found.values())
    assert found["matching_recall"] == pytest.approx(0, abs=1e-3) and found["valid_share"] == 1
    assert found["held_out_matching_recall"] > 0.1
    assert found == made.measure(weights, [real], [real], [test])
    few = {k: v[:6] for k, v in real.items()}
    shown = made.show(weights, few, few, jax.random.key(0))
    assert set(shown) == {"lines", "pictures", "histograms"} and len(shown["lines"]) == 6


def test_what_does_not_fit_is_refused_in_one_line(spice):
    data, dataset = spice
    with pytest.raises(BadInput, match=r"sample\.steps=21") as error:
        build(MODEL, data, Sample(steps=21), dataset)
    assert "\n" not in str(error.value)
    with pytest.raises(BadInput, match="leave no network"):
        settings.resolve(Model, {"local_layers": 0, "global_layers": 0})
    with pytest.raises(BadInput, match="beta_first"):
        settings.resolve(Model, {"noising": {"schedule": "linear", "beta_first": 0.5}})
