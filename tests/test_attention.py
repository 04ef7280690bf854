"""Every attention implementation against loops over positions, forward and backward, and their choice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collapse_jax.models import attention

SHAPES = [(2, 20, 2, 3, 8), (1, 37, 1, 1, 4), (1, 130, 2, 1, 8)]  # rows, length, key heads, group, head size


def case(shape):
    rows, length, keys, group, size = shape
    draw = np.random.default_rng(0).normal
    q = draw(size=(rows, length, keys, group, size)) * 2
    return [x.astype(np.float32) for x in (q, *draw(size=(2, rows, length, keys, size)) * 2)]


def loops(q, k, v):
    out = np.zeros_like(q, np.float64)
    for b, t, n, g in np.ndindex(q.shape[:4]):
        scores = k[b, : t + 1, n].astype(np.float64) @ q[b, t, n, g] / np.sqrt(q.shape[-1])
        shares = np.exp(scores - scores.max())
        out[b, t, n, g] = shares / shares.sum() @ v[b, : t + 1, n]
    return out


@pytest.mark.parametrize("shape", SHAPES)
def test_reference_equals_loops(shape):
    q, k, v = case(shape)
    np.testing.assert_allclose(jax.jit(attention.reference)(q, k, v), loops(q, k, v), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk", [0, 16])
@pytest.mark.parametrize("shape", SHAPES)
def test_blocks_equal_the_reference_and_so_do_their_gradients(shape, chunk):
    q, k, v = case(shape)
    weight = np.random.default_rng(1).normal(size=q.shape).astype(np.float32)

    def gradients(f):
        def loss(q, k, v):
            y = f(q, k, v)
            return jnp.sum(y * weight), y

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(q, k, v)

    found = gradients(lambda q, k, v: attention.blocks(q, k, v, chunk))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(gradients(attention.reference)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)


def test_splash_equals_the_reference():
    """Run by the interpreter of its kernels."""
    q, k, v = case((1, 128, 1, 2, 128))
    found = attention.splash(*(jnp.array(x) for x in (q, k, v)), interpret=True)
    np.testing.assert_allclose(found, loops(q, k, v), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("length", [128, 256, 384, 512, 640, 768, 896, 1024, 1152, 1280, 2048])
def test_splash_lowers_for_tpus_at_every_length_it_is_chosen_for(length):
    assert attention.choose("tpu", jnp.bfloat16, length, 128) == "splash"
    loss = jax.jit(jax.grad(lambda q, k, v: attention.splash(q, k, v).sum(), (0, 1, 2)))
    q, k = (jax.ShapeDtypeStruct((1, length, 1, *shape), jnp.bfloat16) for shape in ((2, 128), (128,)))
    assert "tpu_custom_call" in loss.trace(q, k, k).lower(lowering_platforms=("tpu",)).as_text()


@pytest.mark.parametrize("name", ["reference", "blocks"])
def test_large_scores_and_half_precision(name):
    q, k, v = (jnp.array(x, jnp.bfloat16) for x in case(SHAPES[0]))
    y = attention.attend(q * 300, k, v, name)
    assert y.dtype == jnp.bfloat16
    expected = loops(*(np.asarray(x, np.float32) for x in (q * 300, k, v)))
    np.testing.assert_allclose(np.asarray(y, np.float32), expected, atol=0.15)


@pytest.mark.parametrize(
    ("case", "name"),
    [
        (("cpu", "float32", 256, 32), "blocks"),
        (("cpu", "float32", 64, 32), "reference"),
        (("gpu", "bfloat16", 1024, 64), "cudnn"),
        (("gpu", "float32", 1024, 64), "blocks"),
        (("gpu", "bfloat16", 1000, 64), "blocks"),
        (("gpu", "bfloat16", 1024, 160), "blocks"),
        (("tpu", "bfloat16", 1024, 64), "blocks"),
        (("tpu", "bfloat16", 1024, 128), "splash"),
        (("tpu", "float32", 1000, 128), "blocks"),
    ],
)
def test_choice_by_device_and_shape(case, name):
    assert attention.choose(*case) == name


def test_cudnn_is_asked_for_causal_attention_with_grouped_heads(monkeypatch):
    """The call is checked with XLA's implementation in place of the kernel, which needs a GPU."""
    asked, fused = [], jax.nn.dot_product_attention

    def stand_in(q, k, v, is_causal, implementation):
        asked.append((implementation, is_causal))
        return fused(q, k, v, is_causal=is_causal, implementation="xla")

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    q, k, v = case(SHAPES[0])
    found = attention.cudnn(jnp.array(q), jnp.array(k), jnp.array(v))
    np.testing.assert_allclose(found, loops(q, k, v), rtol=1e-4, atol=1e-5)
    assert asked == [("cudnn", True)]
