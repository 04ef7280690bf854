# pyright: reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false, reportAttributeAccessIssue=false
"""The equivariant network's symmetries, what its edges are, and rows of different sizes computed in parts."""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ortho_group

from collapse_jax.models import equivariant, ragged
from collapse_jax.models.equivariant import EquivariantConfig, EquivariantDenoiser, centred, pair_kinds
from collapse_jax.models.ragged import Ragged, choose_caps, padding

DATA = Path(__file__).parents[2] / "shared" / "data"
CONFIG = EquivariantConfig(hidden=8, local_layers=1, global_layers=1, cutoff=4.0, radial=4)
SIZE, ROWS, UNIT = 9, 8, 1.5
AXES = (("atoms", 1), ("charges", 1), ("bonds", 2), ("x", 1))


def molecules(seed: int = 0, rows: int = ROWS, size: int = SIZE) -> dict[str, np.ndarray]:
    """Random trees of atoms with a ring bond, of different sizes, at random places."""
    draw = np.random.default_rng(seed)
    count = draw.integers(2, size + 1, rows).astype(np.int32)
    count[0] = size
    atoms, charges = np.zeros((rows, size), np.uint8), np.zeros((rows, size), np.int8)
    bonds, x = np.zeros((rows, size, size), np.uint8), np.zeros((rows, size, 3), np.float32)
    for row, n in enumerate(count):
        atoms[row, :n] = draw.choice([1, 6, 7, 8, 17], n)
        charges[row, :n] = draw.integers(-1, 2, n)
        for i in range(1, n):
            j = draw.integers(i)
            bonds[row, i, j] = bonds[row, j, i] = draw.integers(1, 5)
        x[row, :n] = draw.normal(size=(n, 3))
        x[row, :n] -= x[row, :n].mean(0)
    return {"atoms": atoms, "charges": charges, "bonds": bonds, "count": count, "x": x}


def forward(model, rows, config=CONFIG):
    level = jnp.full(len(rows["count"]), 0.8, rows["x"].dtype)
    return model(rows, rows["x"], level, jnp.sqrt(1 - level**2), UNIT)


@pytest.fixture(scope="module")
def model():
    """Weights large enough that every path through the network matters."""
    made = jax.jit(lambda: EquivariantDenoiser(CONFIG, nnx.Rngs(0)))()
    made.layers.along[...] = made.layers.along[...] * 5000
    made.layers.out[...] = made.layers.out[...] * 30
    return made


@pytest.fixture(scope="module")
def run(model):
    return jax.jit(lambda rows: forward(model, rows))


def test_turning_mirroring_and_moving_the_input_does_so_to_the_output(run):
    rows = molecules()
    plain = np.asarray(run(rows))
    assert np.abs(plain).max() > 0.3  # the test would be vain on zeros
    signs = set()
    for seed in range(6):
        turn = ortho_group.rvs(3, random_state=seed).astype(np.float32)
        signs.add(round(float(np.linalg.det(turn))))
        there = np.arange(SIZE)[None, :, None] < rows["count"][:, None, None]
        moved = np.where(there, rows["x"] @ turn + np.float32(seed), 0)
        np.testing.assert_allclose(np.asarray(run({**rows, "x": moved})), plain @ turn, atol=1e-5)
    assert signs == {-1, 1}


def test_the_order_of_the_atoms_does_not_matter(run):
    rows = molecules()
    plain, draw = np.asarray(run(rows)), np.random.default_rng(1)
    mixed, orders = {k: v.copy() for k, v in rows.items()}, []
    for row, n in enumerate(rows["count"]):
        order = np.append(draw.permutation(n), np.arange(n, SIZE)).astype(int)
        orders.append(order)
        for name in ("atoms", "charges", "x"):
            mixed[name][row] = rows[name][row][order]
        mixed["bonds"][row] = rows["bonds"][row][np.ix_(order, order)]
    expected = np.stack([out[order] for out, order in zip(plain, orders, strict=True)])
    np.testing.assert_allclose(np.asarray(run(mixed)), expected, atol=1e-5)


def test_equal_atoms_that_the_graph_exchanges_are_moved_alike(run):
    rows = molecules()
    rows["bonds"][0], rows["charges"][0], rows["atoms"][0] = 0, 0, 6
    for i in range(SIZE):  # a ring of equal atoms: every rotation of it is a symmetry
        rows["bonds"][0, i, (i + 1) % SIZE] = rows["bonds"][0, (i + 1) % SIZE, i] = 1
    angle = 2 * np.pi * np.arange(SIZE) / SIZE
    rows["x"][0] = np.stack([np.cos(angle), np.sin(angle), 0 * angle], 1)
    out = np.asarray(run(rows))[0]
    lengths = np.linalg.norm(out, axis=1)
    np.testing.assert_allclose(lengths, lengths[0], atol=1e-5)
    assert lengths[0] > 1e-3
    np.testing.assert_allclose(out[:, 2], 0, atol=1e-5)


def test_padding_gets_nothing_and_does_nothing(run):
    rows = molecules()
    plain = np.asarray(run(rows))
    absent = np.arange(SIZE)[None] >= rows["count"][:, None]
    assert absent.any() and not plain[absent].any()
    np.testing.assert_allclose(plain.sum(1), 0, atol=1e-5)
    spoilt = {
        **rows,
        "x": np.where(absent[..., None], np.float32(7), rows["x"]),
        "atoms": rows["atoms"] | 64 * absent,
    }
    np.testing.assert_allclose(np.asarray(run(spoilt)), plain, atol=1e-6)


def test_kinds_are_the_bonds_and_the_steps_along_them():
    rows = molecules(2)
    kinds = np.asarray(pair_kinds(rows))
    for row, n in enumerate(rows["count"]):
        steps = np.where(rows["bonds"][row] > 0, 1.0, np.inf)
        np.fill_diagonal(steps, 0)
        for k in range(SIZE):  # Floyd and Warshall
            steps = np.minimum(steps, steps[:, k, None] + steps[None, k])
        for i, j in itertools.product(range(SIZE), repeat=2):
            if i == j or max(i, j) >= n:
                expected = equivariant.NONE
            elif steps[i, j] == 1:
                expected = equivariant.THREE_APART + rows["bonds"][row, i, j]
            else:
                expected = {2: equivariant.TWO_APART, 3: equivariant.THREE_APART}.get(
                    steps[i, j], equivariant.FAR
                )
            assert kinds[row, i, j] == expected


def test_a_layer_is_the_sum_over_pairs_written_out(model):
    """One layer against loops in float64."""
    rows = {k: v[:2] for k, v in molecules(3).items()}
    kinds = np.asarray(pair_kinds(rows))
    one_hot = np.eye(equivariant.KINDS)[kinds]
    draw = np.random.default_rng(0)
    h_BNH = draw.normal(size=(2, SIZE, CONFIG.hidden))
    weights = jax.tree.map(lambda w: w[1], model.layers)
    reach = [
        jnp.asarray(kinds > equivariant.FAR, jnp.float32),
        jnp.asarray(kinds == equivariant.FAR, jnp.float32),
    ]
    w = {k: np.asarray(getattr(weights, k)[...], float) for k in (
        "ends", "pair", "pair_bias", "message", "message_bias", "move", "move_bias", "along", "node", "received",
        "node_bias", "out", "out_bias")}  # fmt: skip
    scale = np.asarray(weights.norm.scale[...], float)

    def silu(z):
        return z / (1 + np.exp(-z))

    for everywhere in (False, True):
        h, x = weights(
            jnp.asarray(h_BNH.reshape(-1, CONFIG.hidden), jnp.float32),
            jnp.asarray(rows["x"]),
            jnp.asarray(one_hot.reshape(-1, equivariant.KINDS), jnp.float32),
            (*reach, jnp.asarray(everywhere)),
            CONFIG,
        )
        h, x = np.asarray(h).reshape(h_BNH.shape), np.asarray(x)
        for row in range(2):
            normed = h_BNH[row] / np.sqrt((h_BNH[row] ** 2).mean(1, keepdims=True) + 1e-5) * scale
            to, since = np.split(normed @ w["ends"], 2, 1)
            for i in range(SIZE):
                edges = [j for j in range(SIZE) if kinds[row, i, j] > (0 if everywhere else equivariant.FAR)]
                total, shift = np.zeros(CONFIG.hidden), np.zeros(3)
                for j in edges:
                    away = rows["x"][row, i].astype(float) - rows["x"][row, j]
                    d = np.linalg.norm(away)
                    r = min(d / CONFIG.cutoff, 1)
                    fade = 1 - 28 * r**6 + 48 * r**7 - 21 * r**8 if kinds[row, i, j] == equivariant.FAR else 1
                    seen = np.exp(-((4 * (np.exp(-d / 2) - np.arange(4) / 3)) ** 2))
                    first = (
                        to[i]
                        + since[j]
                        + np.concatenate([seen, one_hot[row, i, j]]) @ w["pair"]
                        + w["pair_bias"]
                    )
                    message = silu(silu(first) @ w["message"] + w["message_bias"])
                    move = silu(message @ w["move"] + w["move_bias"]) @ w["along"]
                    total += fade * message / len(edges)
                    shift += fade * move * away / (1 + d) / len(edges)
                mixed = silu(normed[i] @ w["node"] + w["node_bias"] + total @ w["received"])
                np.testing.assert_allclose(
                    h[row, i], h_BNH[row, i] + mixed @ w["out"] + w["out_bias"], atol=2e-4
                )
                np.testing.assert_allclose(x[row, i], rows["x"][row, i] + shift, atol=2e-4)


def test_the_global_edges_fade_out_at_the_cutoff():
    d = np.linspace(0, 5, 501)
    fade = np.asarray(equivariant.fading(jnp.asarray(d), 4.0))
    assert fade[0] == 1 and np.all(fade[d >= 4] == 0) and np.all(np.diff(fade) <= 1e-6)
    assert np.all(np.asarray(equivariant.fading(jnp.asarray(d), 0.0)) == 1)


def test_centring_is_the_orthogonal_projection():
    rows, draw = molecules(), np.random.default_rng(0)
    x, y = draw.normal(size=(2, ROWS, SIZE, 3)).astype(np.float32)
    once = np.asarray(centred(x, rows["count"]))
    np.testing.assert_allclose(np.asarray(centred(once, rows["count"])), once, atol=1e-6)
    other = np.asarray(centred(y, rows["count"]))
    np.testing.assert_allclose((once * y).sum((1, 2)), (x * other).sum((1, 2)), atol=1e-4)


# Rows of different sizes


@given(st.lists(st.integers(1, 12), min_size=1, max_size=30), st.integers(1, 4))
def test_caps_are_the_best_there_are(sizes, most):
    def cost(caps):
        return sum(min(c for c in caps if c >= n) ** 2 for n in sizes)

    caps = choose_caps(np.array(sizes), most)
    values = sorted(set(sizes))
    assert caps[-1] == max(sizes) and list(caps) == sorted(set(caps)) and len(caps) <= most
    best = min(
        cost((*some, max(sizes)))
        for k in range(min(most, len(values)))
        for some in itertools.combinations(values[:-1], k)
    )
    assert cost(caps) == best


@pytest.mark.parametrize("name", ["spice-des-monomers/des_monomers", "conformer-benchmark/conformers700"])
def test_less_than_30_percent_of_the_computed_pairs_are_padding(name):
    file = DATA / f"{name}.npz"
    if not file.exists():
        pytest.skip(f"{file} is not there")
    with np.load(file, allow_pickle=False) as arrays:
        sizes = np.repeat(np.diff(arrays["ptr"]), arrays["n_conf"])
    draw, caps = np.random.default_rng(0), choose_caps(sizes)
    for rows in (32, 64):
        pairs, places = np.mean([padding(draw.choice(sizes, rows), caps) for _ in range(300)], 0)
        assert places < pairs < 0.30


@pytest.fixture(scope="module")
def parts():
    return Ragged((5, SIZE), AXES)


@pytest.fixture(scope="module")
def compiled(parts):
    """Gradients of a sum, and a map, in parts and whole."""

    def errors(model, rows):
        return jnp.sum(jnp.sin(forward(model, rows)) * (1 + rows["count"][:, None, None]))

    def in_parts(model, rows):
        return 0.5 * parts.sum(errors, model, rows)

    def whole(model, rows):
        return 0.5 * errors(model, rows)

    return {
        "parts": jax.jit(jax.value_and_grad(in_parts)),
        "whole": jax.jit(jax.value_and_grad(whole)),
        "seeds": jax.jit(jax.vmap(jax.value_and_grad(in_parts))),
        "map": jax.jit(lambda model, rows: parts.map(forward, model, rows)),
        "maps": jax.jit(jax.vmap(lambda model, rows: parts.map(forward, model, rows), in_axes=(None, 0))),
    }


def agree(found, expected, atol=2e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=atol), found, expected)


@pytest.mark.slow
def test_rows_in_parts_give_what_they_give_whole(compiled, model, run):
    some = [molecules(seed) for seed in range(3)]
    some += [{k: v[np.r_[0, 0, 0, 0, 0, 0, 0, 0]] for k, v in some[0].items()}]  # all at the largest size
    some += [{k: v[np.argsort(some[1]["count"])[[0] * ROWS]] for k, v in some[1].items()}]  # at the smallest
    for rows in some:
        agree(compiled["parts"](model, rows), compiled["whole"](model, rows))
        agree(compiled["map"](model, rows), run(rows))


@pytest.mark.slow
def test_seeds_side_by_side_give_what_they_give_alone(compiled, model, run):
    batches = [molecules(5), molecules(6)]
    models = [model, jax.tree.map(lambda w: 0.7 * w, model)]
    together = compiled["seeds"](
        jax.tree.map(lambda *x: jnp.stack(x), *models), jax.tree.map(lambda *x: np.stack(x), *batches)
    )
    maps = compiled["maps"](model, jax.tree.map(lambda *x: np.stack(x), *batches))
    for lane in range(2):
        agree(
            jax.tree.map(lambda x, lane=lane: x[lane], together),
            compiled["whole"](models[lane], batches[lane]),
        )
        agree(maps[lane], run(batches[lane]))


def test_parts_divide_the_batch():
    for rows in range(1, 40):
        assert rows % ragged.part_size(rows) == 0
    assert ragged.part_size(64) == ragged.FEW
