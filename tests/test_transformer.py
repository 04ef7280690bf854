"""The transformer against a slow NumPy one, its sizes, its loss, and the same numbers on any mesh."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from forced_devices import run
from transformer_oracle import logits as oracle

from collapse_jax.models.transformer import (
    PRESETS,
    Transformer,
    TransformerConfig,
    shifted,
    token_losses,
)

TINY = {
    "gpt2": TransformerConfig("gpt2", 2, 16, 2, context=12, vocab_size=11),
    "llama2": TransformerConfig("llama2", 2, 16, 4, kv_heads=2, mlp=24, context=12, vocab_size=11),
    "llama2_tied": TransformerConfig("llama2", 1, 16, 2, context=12, vocab_size=11, head="tied"),
}


@functools.cache
def shaken(config):
    """A model whose every weight (biases and scales too) is away from its initial value."""

    @jax.jit
    def make():
        leaves, tree = jax.tree.flatten(Transformer(config, nnx.Rngs(0)))
        keys = jax.random.split(jax.random.key(1), len(leaves))
        moved = [x + 0.2 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
        return jax.tree.unflatten(tree, moved)

    return make()


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [
        ("gpt2_9m", 8_890_880),
        ("llama2_12m", 12_488_960),
        ("llama2_42m", 41_755_136),
        ("llama2_126m", 125_553_408),
        ("gpt2_124m", 124_439_808),
        ("gpt2_xs", 891_648),
    ],
)
def test_presets_have_the_published_sizes(preset, parameters):
    model = jax.eval_shape(lambda: Transformer(PRESETS[preset], nnx.Rngs(0)))
    assert sum(x.size for x in jax.tree.leaves(model)) == parameters
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(model))


@pytest.mark.parametrize("name", TINY)
def test_logits_equal_the_slow_transformer(name):
    model = shaken(TINY[name])
    ids = np.random.default_rng(0).integers(0, 11, (2, 12))
    found = jax.jit(lambda m, x: m(x))(model, ids)
    np.testing.assert_allclose(found, [oracle(model, row) for row in ids], rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama2"])
def test_a_token_changes_no_earlier_logits(name):
    model = shaken(TINY[name])
    ids = np.random.default_rng(1).integers(0, 11, (1, 12))
    forward = jax.jit(lambda x: model(x))
    before, changed = forward(ids), ids.copy()
    changed[0, 7] = (changed[0, 7] + 1) % 11
    after = forward(changed)
    np.testing.assert_array_equal(before[0, :7], after[0, :7])
    assert np.abs(before[0, 7:] - after[0, 7:]).max(1).min() > 1e-4


def test_residual_projections_start_smaller():
    config = TransformerConfig("llama2", 8, 64, 2, context=8, vocab_size=50)
    blocks = jax.jit(lambda: Transformer(config, nnx.Rngs(3)))().blocks
    assert np.std(blocks.qkv[...]) == pytest.approx(0.02, rel=0.05)
    for weight in (blocks.out, blocks.down):
        assert np.std(weight[...]) == pytest.approx(0.02 / np.sqrt(2 * 8), rel=0.05)


def test_inputs_are_the_start_and_all_but_the_last():
    tokens = jnp.array([[5, 6, 7], [8, 9, 1]])
    np.testing.assert_array_equal(shifted(tokens, 3), [[3, 5, 6], [3, 8, 9]])


def test_token_losses_are_minus_the_log_of_the_softmax():
    logits = np.random.default_rng(2).normal(0, 30, (2, 3, 7))
    targets = np.array([[0, 6, 3], [2, 2, 5]])
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    expected = [[-np.log(shares[b, t, targets[b, t]]) for t in range(3)] for b in range(2)]
    np.testing.assert_allclose(token_losses(jnp.array(logits), jnp.array(targets)), expected, 1e-4, 1e-5)


@functools.cache
def differentiate(config):
    ids = jnp.array(np.random.default_rng(4).integers(0, 11, (2, 12)))

    def loss(model):
        return token_losses(under(config, model)(shifted(ids, 0)), ids).mean()

    return jax.jit(jax.value_and_grad(loss))


def gradient(config, model):
    return differentiate(config)(model)


def under(config, model):
    """The same weights computed under other settings."""
    tree = jax.tree.structure(jax.eval_shape(lambda: Transformer(config, nnx.Rngs(0))))
    return jax.tree.unflatten(tree, jax.tree.leaves(model))


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"remat": "dots"}, {"remat": "full"}, {"unroll": 1, "remat": "full"}])
@pytest.mark.parametrize("name", ["gpt2", "llama2"])
def test_remat_and_unrolling_change_no_gradient(name, change):
    model = shaken(TINY[name])
    plain, other = (gradient(c, model) for c in (TINY[name], dataclasses.replace(TINY[name], **change)))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_gradient_is_the_slope_of_the_loss():
    model = shaken(TINY["llama2"])
    _, grads = gradient(TINY["llama2"], model)
    leaves, tree = jax.tree.flatten(model)
    draws = np.random.default_rng(6)
    steps = [draws.normal(size=x.shape).astype(np.float32) for x in leaves]

    def moved(by):
        return jax.tree.unflatten(tree, [x + by * d for x, d in zip(leaves, steps, strict=True)])

    eps = 1e-3
    up, down = (gradient(TINY["llama2"], moved(s * eps))[0] for s in (1, -1))
    along = sum(jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(grads), steps, strict=True))
    assert (up - down) / (2 * eps) == pytest.approx(float(along), rel=2e-2)


def test_bfloat16_is_close_and_its_weights_stay_float32():
    model = shaken(TINY["gpt2"])
    half = under(dataclasses.replace(TINY["gpt2"], dtype="bfloat16"), model)
    ids = np.random.default_rng(5).integers(0, 11, (2, 12))
    exact, found = model(ids), half(ids)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(np.float32), exact, atol=0.05 * np.abs(exact).max())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"width": 30, "heads": 4}, "heads=4 must divide width=30"),
        ({"heads": 4, "kv_heads": 3}, "kv_heads=3 must divide heads=4"),
        ({"style": "llama2", "width": 12, "heads": 4}, "must be even"),
    ],
)
def test_impossible_shapes_are_named(settings, said):
    assert any(said in line for line in TransformerConfig(**settings).problems())


MESH = """
import dataclasses, jax, json, numpy as np
import collapse_jax
from collapse_jax import mesh
from flax import nnx
from collapse_jax.models.transformer import Transformer, TransformerConfig, shifted, token_losses
from collapse_jax.sampling.decode import RowForm, Sampling, generate
found = {}
for style in ("gpt2", "llama2"):
    for shape in ((1, 1), (4, 2)):
        m = mesh.make(*shape)
        config = TransformerConfig(style, 2, 32, 8, 4, context=128, vocab_size=64)
        model = jax.jit(lambda: Transformer(config, nnx.Rngs(0)))()
        ids = jax.device_put(np.random.default_rng(0).integers(0, 64, (8, 128)), mesh.rows(m))
        loss = lambda model, ids: token_losses(model(shifted(ids, 0)), ids).mean()
        value, grads = jax.jit(jax.value_and_grad(loss))(model, ids)
        for x, g in zip(jax.tree.leaves(model), jax.tree.leaves(grads)):
            assert x.sharding.is_equivalent_to(g.sharding, x.ndim), (x.sharding, g.sharding)
        norm = float(sum((g.astype("float32") ** 2).sum() for g in jax.tree.leaves(jax.device_get(grads))))
        found[f"{style} {shape}"] = [float(value), norm]
        if style == "gpt2":
            continue
        keys = jax.device_put(jax.random.split(jax.random.key(1), 8), mesh.rows(m))
        form, settings = RowForm(12, 0), Sampling(1.3, top_k=40, top_p=0.95)
        draw = jax.jit(lambda model, keys, ids: generate(model, keys, ids[:, :2], form, settings))
        found[f"rows {shape}"] = np.asarray(draw(model, keys, ids)).tolist()
print(json.dumps(found))
"""


@pytest.mark.slow
def test_eight_devices_give_the_numbers_of_one():
    found = run(MESH, devices=8)
    for style in ("gpt2", "llama2"):
        loss, norm = found[f"{style} (1, 1)"]
        other_loss, other_norm = found[f"{style} (4, 2)"]
        assert other_loss == pytest.approx(loss, rel=1e-5)
        assert other_norm == pytest.approx(norm, rel=1e-4)
    assert found["rows (4, 2)"] == found["rows (1, 1)"]
