"""The image denoiser: against a plain NumPy network, its conditioning, and its numbers on a mesh."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from forced_devices import run

from collapse_jax.models import denoiser
from collapse_jax.models.denoiser import Denoiser, DenoiserConfig

SHAPE, CLASSES = (4, 8, 3), 5
SMALL = DenoiserConfig(patch=2, layers=2, width=16, heads=2, mlp=24)


@pytest.fixture(scope="module")
def fresh():
    return jax.jit(lambda: Denoiser(SMALL, SHAPE, CLASSES, nnx.Rngs(0)))()


@pytest.fixture(scope="module")
def random(fresh):
    """Weights of which none is 0, so that nothing is hidden by what begins at 0."""
    leaves, tree = jax.tree.flatten(fresh)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return tree.unflatten(
        [x + 0.2 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    )


@pytest.fixture(scope="module")
def batch():
    draw = np.random.default_rng(0)
    x = draw.normal(size=(6, *SHAPE)).astype(np.float32)
    return x, np.linspace(0.01, 1, 6, dtype=np.float32), np.array([0, 4, -1, 2, 5, 3], np.int32)


forward = jax.jit(lambda model, x, t, label: model(x, t, label))


def plain(model, x, time, label):
    """One image, in float64, patch by patch and head by head."""

    def linear(module, x, layer=None):
        w, b = (np.asarray(z[...], np.float64) for z in (module.weight, module.bias))
        return x @ w + b if layer is None else x @ w[layer] + b[layer]

    def waves(place, size):
        angles = [place * 10_000.0 ** (-i / (size // 2)) for i in range(size // 2)]
        return np.array([*np.cos(angles), *np.sin(angles)])

    def silu(x):
        return x / (1 + np.exp(-x))

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    def normed(x):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)

    size, width, tokens = SMALL.patch, SMALL.width, []
    for row in range(SHAPE[0] // size):
        for column in range(SHAPE[1] // size):
            cut = x[row * size : (row + 1) * size, column * size : (column + 1) * size]
            place = np.concatenate([waves(column, width // 2), waves(row, width // 2)])
            tokens.append(linear(model.enter, cut.ravel()) + place)
    x = np.array(tokens)
    told = label if 0 <= label < CLASSES else CLASSES
    condition = linear(model.time_2, silu(linear(model.time_1, waves(1000 * time, 256))))
    condition = silu(condition + np.asarray(model.labels[...], np.float64)[told])
    for layer in range(SMALL.layers):
        b, head = model.blocks, width // SMALL.heads
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = np.split(
            linear(b.conditions, condition, layer), 6
        )
        fused = linear(b.qkv, normed(x) * (1 + scale_1) + shift_1, layer).reshape(-1, SMALL.heads, 3, head)
        mixed = []
        for h in range(SMALL.heads):
            q, k, v = fused[:, h].swapaxes(0, 1)
            scores = np.exp(q @ k.T / np.sqrt(head))
            mixed.append(scores / scores.sum(1, keepdims=True) @ v)
        x = x + gate_1 * linear(b.out, np.concatenate(mixed, 1), layer)
        hidden = gelu(linear(b.up, normed(x) * (1 + scale_2) + shift_2, layer))
        x = x + gate_2 * linear(b.down, hidden, layer)
    shift, scale = np.split(linear(model.conditions, condition), 2)
    x = linear(model.leave, normed(x) * (1 + scale) + shift)
    image = np.zeros(SHAPE)
    for i, token in enumerate(x):
        row, column = divmod(i, SHAPE[1] // size)
        image[row * size : (row + 1) * size, column * size : (column + 1) * size] = token.reshape(
            size, size, -1
        )
    return image


def test_it_is_the_plain_network(random, batch):
    wanted = [plain(random, *row) for row in zip(*batch, strict=True)]
    np.testing.assert_allclose(forward(random, *batch), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_it_begins_as_zero_and_learns_at_once(fresh, batch):
    assert float(jnp.abs(forward(fresh, *batch)).max()) == 0
    slopes = jax.jit(jax.grad(lambda model: ((model(*batch) - batch[0]) ** 2).mean()))(fresh)
    assert float(jnp.abs(slopes.leave.weight[...]).max()) > 0


def test_every_pixel_meets_every_other_and_no_other_row(random, batch):
    x, time, label = batch
    moved = x.copy()
    moved[1, -1, -1, 0] += 1
    change = np.abs(np.asarray(forward(random, moved, time, label) - forward(random, x, time, label)))
    assert change[1].min() > 0 and change[[0, 2, 3, 4, 5]].max() == 0


def test_time_and_class_matter_and_no_class_is_one_too(random, batch):
    x, time, label = batch
    here = forward(random, x, time, label)
    for other in (forward(random, x, time * 0.9, label), forward(random, x, time, (label + 1) % CLASSES)):
        assert np.abs(np.asarray(other - here)).reshape(6, -1).max(1).min() > 1e-3
    np.testing.assert_array_equal(
        forward(random, x, time, np.full(6, -1)), forward(random, x, time, np.full(6, 9))
    )
    bare = jax.jit(lambda: Denoiser(SMALL, SHAPE, 0, nnx.Rngs(0)))()
    assert bare.labels is None
    np.testing.assert_array_equal(forward(bare, x, time, label), forward(bare, x, time, 0 * label))


def test_seeds_run_side_by_side(random, batch):
    both = jax.tree.map(lambda x: jnp.stack([x, 0.5 * x]), random)
    found = jax.jit(jax.vmap(lambda model: model(*batch)))(both)
    np.testing.assert_allclose(found[0], forward(random, *batch), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_half_precision_and_remat_compute_the_same(random, batch):
    exact = np.asarray(forward(random, *batch))
    for change, rtol in (({"dtype": "bfloat16"}, 0.06), ({"remat": "full"}, 1e-5)):
        config = dataclasses.replace(SMALL, **change)
        other = jax.jit(lambda config=config: Denoiser(config, SHAPE, CLASSES, nnx.Rngs(0)))()
        other = jax.tree.unflatten(jax.tree.structure(other), jax.tree.leaves(random))
        found = forward(other, *batch)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, exact, atol=rtol * np.abs(exact).max())


def test_patches_are_in_reading_order_and_can_be_put_back():
    x = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    cut = denoiser.patches(jnp.array(x), 2)
    np.testing.assert_array_equal(cut[1, 4], x[1, 2:4, 2:4].ravel())
    np.testing.assert_array_equal(denoiser.unpatched(cut, (4, 6, 3), 2), x)


def test_attention_is_the_library_s():
    q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 7, 3, 8))
    wanted = jax.nn.dot_product_attention(q, k, v)
    np.testing.assert_allclose(denoiser.attend(q, k, v), wanted, rtol=1e-5, atol=1e-6)


def test_the_published_size_has_the_published_weights():
    """DiT-S/2 of Peebles and Xie 2023, Table 4: 33 M, of which its predicted variances take 384 * 16 + 16."""
    config = DenoiserConfig(patch=2, layers=12, width=384, heads=6)
    model = jax.eval_shape(lambda: Denoiser(config, (32, 32, 4), 1000, nnx.Rngs(0)))
    count = sum(x.size for x in jax.tree.leaves(model))
    assert round((count + 384 * 16 + 16) / 1e6) == 33


def test_impossible_shapes_are_named():
    assert "heads=3 must divide width=16" in DenoiserConfig(width=16, heads=3).problems()[0]
    assert "width=18 must be divisible by 4" in DenoiserConfig(width=18, heads=3).problems()[0]


MESH = """
import jax, json, numpy as np
import collapse_jax
from collapse_jax import mesh
from flax import nnx
from collapse_jax.models.denoiser import Denoiser, DenoiserConfig
from collapse_jax.models.diffusion import Noising, bound_terms, loss_terms
from collapse_jax.sampling.denoise import Denoising, denoise, start
found = []
noising = Noising(20, target="v", bound_draws=2)
for shape in ((1, 1), (4, 2)):
    m = mesh.make(*shape)
    config = DenoiserConfig(2, 2, 16, 2)
    model = jax.jit(lambda: Denoiser(config, (4, 4, 1), 3, nnx.Rngs(0)))()
    model = jax.tree.map(lambda x: x + 0.03, model)
    draw = np.random.default_rng(0)
    x = draw.normal(size=(8, 4, 4, 1)).astype(np.float32)
    x, labels = jax.device_put((x, np.arange(8) % 4), mesh.rows(m))
    keys = jax.device_put(jax.random.split(jax.random.key(1), 8), mesh.rows(m))
    output = lambda model, labels: (lambda x, t: model(x, jax.numpy.broadcast_to(t / 20, labels.shape), labels))
    loss = lambda model, x, labels: loss_terms(output(model, labels), x, jax.random.key(0), noising).mean()
    value, grads = jax.jit(jax.value_and_grad(loss))(model, x, labels)
    for w, g in zip(jax.tree.leaves(model), jax.tree.leaves(grads)):
        assert w.sharding.is_equivalent_to(g.sharding, w.ndim), (w.sharding, g.sharding)
    norm = float(sum((g.astype("float32") ** 2).sum() for g in jax.tree.leaves(jax.device_get(grads))))
    bound = jax.jit(lambda model, x, labels: bound_terms(output(model, labels), x, keys, noising, bin_width=0.1))
    drawn = jax.jit(lambda model, keys, labels: denoise(output(model, labels), start(keys, (4, 4, 1)), keys, noising,
                                                        Denoising(steps=5)))
    found.append({"loss": [float(value)], "norm": [norm],
                  "bound": np.asarray(sum(bound(model, x, labels).values())).tolist(),
                  "drawn": np.asarray(drawn(model, keys, labels)).ravel().tolist()})
print(json.dumps(found))
"""


@pytest.mark.slow
def test_eight_devices_give_the_numbers_of_one():
    one, eight = run(MESH, devices=8)
    for name in one:
        np.testing.assert_allclose(eight[name], one[name], rtol=1e-4, atol=1e-4, err_msg=name)
