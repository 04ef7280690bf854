"""Norms, rotary positions, embeddings and declared weights against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from collapse_jax.models import layers


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(3, 2, (2, 5, 8)).astype(np.float32)


def test_layer_norm(x):
    norm = layers.LayerNorm(nnx.Rngs(0), 8, eps=1e-5)
    norm.scale[...] = jnp.arange(1.0, 9.0)
    norm.bias[...] = jnp.arange(8.0)
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(norm(x), expected * np.arange(1, 9) + np.arange(8), rtol=1e-4, atol=1e-5)


def test_rms_norm(x):
    norm = layers.RMSNorm(nnx.Rngs(0), 8, eps=1e-5)
    norm.scale[...] = jnp.arange(1.0, 9.0)
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * np.arange(1, 9)
    np.testing.assert_allclose(norm(x), expected, rtol=1e-5)


def test_statistics_of_half_precision_are_taken_in_float32():
    x = jnp.full((1, 4096), 300.0, jnp.bfloat16)
    assert layers.RMSNorm(nnx.Rngs(0), 4096)(x).astype(jnp.float32) == pytest.approx(1.0, rel=1e-2)


def test_rotation_keeps_lengths_and_depends_on_distance_only():
    q, k = np.random.default_rng(1).normal(size=(2, 1, 9, 1, 6)).astype(np.float32)
    turn = layers.rotary(jnp.arange(9), 6, 100.0)
    q[:], k[:] = q[:, :1], k[:, :1]
    a, b = layers.rotate(q, *turn), layers.rotate(k, *turn)
    np.testing.assert_allclose(np.linalg.norm(a, axis=-1), np.linalg.norm(q, axis=-1), rtol=1e-5)
    scores = np.einsum("btnh,bsnh->ts", a, b)
    for gap in range(9):
        np.testing.assert_allclose(np.diagonal(scores, gap), scores[0, gap], rtol=1e-4, atol=1e-5)
    assert abs(scores[0, 0] - scores[0, 4]) > 1e-3


def test_embedding_takes_rows(x):
    table = np.random.default_rng(2).normal(size=(11, 8)).astype(np.float32)
    ids = jnp.array([[0, 10], [3, 3]])
    np.testing.assert_array_equal(layers.embed(jnp.array(table), ids, "float32"), table[ids])
    assert layers.embed(jnp.array(table), ids, "bfloat16").dtype == jnp.bfloat16


def test_contraction_in_the_dtype_of_the_activation():
    x, w = np.random.default_rng(3).normal(size=(2, 6, 6)).astype(np.float32)
    np.testing.assert_allclose(layers.contract(jnp.array(x), jnp.array(w), None), x @ w, rtol=1e-4, atol=1e-5)
    assert layers.contract(jnp.array(x, jnp.bfloat16), jnp.array(w), None).dtype == jnp.bfloat16


def test_stacked_weights_differ_by_layer_and_keep_their_spread():
    w = layers.weight(nnx.Rngs(0), (40, 50), (None, "model"), layers.normal(0.02), stack=3)[...]
    assert w.shape == (3, 40, 50) and w.dtype == jnp.float32
    assert np.std(w, axis=(1, 2)) == pytest.approx([0.02] * 3, rel=0.1)
    assert len({float(v) for v in w[:, 0, 0]}) == 3


def test_specs_take_effect_on_the_mesh_only():
    assert layers.placed("data", None) is None
    mesh = jax.sharding.AbstractMesh(
        (128, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Explicit,) * 2
    )
    with jax.sharding.use_abstract_mesh(mesh):
        assert layers.placed("data", None) == jax.P("data", None)
        made = jax.eval_shape(lambda: layers.weight(nnx.Rngs(0), (4, 6), (None, "model"), layers.zeros, 3))
        assert jax.tree.leaves(made)[0].sharding.spec == jax.P(None, None, "model")
