# pyright: reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false, reportAttributeAccessIssue=false
"""The VAE: convolutions, likelihoods, bounds against the exact marginal, sampling, and what it refuses."""

import base64
import dataclasses
import io
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from forced_devices import run
from PIL import Image
from scipy import integrate, stats
from scipy.special import expit, logsumexp, xlogy
from sklearn.datasets import load_digits

from collapse_jax.config import BadInput
from collapse_jax.families.vae import Data, Model, Sample, VAEFamily, build
from collapse_jax.models import likelihood
from collapse_jax.models.convolution import GROUPS, GroupNorm, convolve, transposed
from collapse_jax.models.vae import VAE

NO_CLASSES = SimpleNamespace(classes=())
SMALL = Model(channels=(4, 8), latent=3)
SHUMAILOV = Model(channels=(64, 128), kernel=4, output="transposed", latent=20)
BENCH = Model(channels=(32, 64, 128, 256), kernel=3, latent=128)


def family(model=SMALL, shape=(8, 8, 1), **sampling) -> VAEFamily:
    spec = {"image": (shape, "uint8"), "label": ((), "int32")}
    dataset = SimpleNamespace(spec=spec, features=NO_CLASSES)
    return build(model, Data(), Sample(**sampling), dataset)  # pyright: ignore[reportArgumentType]


def made(family, seed=0):
    return jax.jit(lambda: family.init(nnx.Rngs(seed)))()


def draws(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def rows(count=4, shape=(8, 8, 1), seed=0):
    image = np.random.default_rng(seed).integers(0, 256, (count, *shape)).astype(np.uint8)
    return {"image": image, "label": np.arange(count, dtype=np.int32)}


def slow(x, kernel, stride):
    """The definition of a convolution padded by one pixel, pixel by pixel."""
    padded, (size, _, _, channels) = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), kernel.shape
    side = x.shape[1] // stride
    out = np.zeros((len(x), side, side, channels))
    for i, j in np.ndindex(side, side):
        seen = padded[:, stride * i : stride * i + size, stride * j : stride * j + size]
        out[:, i, j] = np.einsum("bhwc,hwco->bo", seen, kernel)
    return out


@pytest.mark.parametrize(("size", "stride", "channels"), [(3, 1, 3), (3, 2, 2), (4, 2, 3)])
def test_convolutions_and_their_gradients_are_those_of_the_definition(size, stride, channels):
    axes = (None, None)
    x, kernel = draws(0, 2, 8, 8, channels), draws(1, size, size, channels, 5)
    y = draws(2, 2, 8 // stride, 8 // stride, 5)
    np.testing.assert_allclose(convolve(x, kernel, stride, axes), slow(x, kernel, stride), atol=1e-4)

    # sum(y * convolve(x, kernel)) is linear in each of the three: its gradients are what it is made of
    def basis(shape):
        return np.eye(math.prod(shape)).reshape(-1, *shape)

    by_x = np.array([np.sum(y[:1] * slow(e[None], kernel, stride)) for e in basis(x.shape[1:])])
    by_kernel = np.array([np.sum(y * slow(x, e, stride)) for e in basis(kernel.shape)])
    grad_x, grad_kernel = jax.grad(lambda *given: jnp.sum(y * convolve(*given, stride, axes)), (0, 1))(
        x, kernel
    )
    np.testing.assert_allclose(grad_x[0].ravel(), by_x, atol=1e-4)
    np.testing.assert_allclose(grad_kernel.ravel(), by_kernel, atol=1e-3)
    up = transposed(y, kernel, stride, axes)
    np.testing.assert_allclose(up[0].ravel(), by_x, atol=1e-4)
    grad_y, grad_kernel = jax.grad(lambda *given: jnp.sum(x * transposed(*given, stride, axes)), (0, 1))(
        y, kernel
    )
    np.testing.assert_allclose(grad_y, slow(x, kernel, stride), atol=1e-4)
    np.testing.assert_allclose(grad_kernel.ravel(), by_kernel, atol=1e-3)


def test_group_norm_is_that_of_its_definition():
    x = draws(0, 2, 4, 4, 16) * 3 + 1
    found = GroupNorm(nnx.Rngs(0), 16, None)(jnp.array(x))
    groups = x.reshape(2, 16, GROUPS, 2)
    centred = groups - groups.mean((1, 3), keepdims=True)
    wanted = centred / np.sqrt((centred**2).mean((1, 3), keepdims=True) + 1e-5)
    np.testing.assert_allclose(found, wanted.reshape(x.shape), atol=1e-5)


def test_published_sizes():
    def parameters(model, shape):
        return sum(x.size for x in jax.tree.leaves(jax.eval_shape(lambda: VAE(model, shape, nnx.Rngs(0)))))

    assert parameters(SHUMAILOV, (28, 28, 1)) == 647_081
    assert parameters(BENCH, (64, 64, 3)) == 2_363_043  # ../shared/bench/vae_torch.py --norm none
    learned = dataclasses.replace(SHUMAILOV, likelihood="gaussian")
    assert parameters(learned, (28, 28, 1)) == 647_082


@pytest.mark.parametrize("side", [8, 16, 28, 32, 64, 128])
@pytest.mark.parametrize(
    ("kernel", "blocks", "norm", "output"), [(3, 0, "none", "transposed"), (4, 1, "group", "convolution")]
)
def test_every_size_and_form(side, kernel, blocks, norm, output):
    stages = 2 if side % 8 else 3
    config = Model((8, 16, 16)[:stages], kernel, blocks, norm, output, latent=5, dtype="bfloat16")

    def through(x):
        model = VAE(config, x.shape[1:], nnx.Rngs(0))
        mean, log_variance = model.encode(x)
        return mean, log_variance, model.decode(mean)

    found = jax.eval_shape(through, jnp.zeros((2, side, side, 3)))
    assert [x.shape for x in found] == [(2, 5), (2, 5), (2, side, side, 3)]
    assert all(x.dtype == jnp.float32 for x in found)


def test_likelihoods_against_scipy():
    logits, x = draws(0, 3, 4, 4, 2), np.random.default_rng(1).integers(0, 256, (3, 4, 4, 2))
    x[0, 0, 0], x[1, 0, 0] = 0, 255
    unit = x / 255
    mean, scale = expit(logits.astype(np.float64)), 0.07
    wanted = xlogy(unit, mean) + xlogy(1 - unit, 1 - mean)
    np.testing.assert_allclose(likelihood.bernoulli(logits, unit), wanted.sum((1, 2, 3)), rtol=1e-5)
    wanted = stats.norm.logpdf(unit, mean, scale)
    np.testing.assert_allclose(likelihood.gaussian(logits, unit, scale), wanted.sum((1, 2, 3)), rtol=1e-5)

    low = np.where(x == 0, -np.inf, ((x - 0.5) / 255 - mean) / scale)
    high = np.where(x == 255, np.inf, ((x + 0.5) / 255 - mean) / scale)
    normal = stats.norm
    mass = np.where(low > 0, normal.sf(low) - normal.sf(high), normal.cdf(high) - normal.cdf(low))
    wanted = np.log(mass)
    np.testing.assert_allclose(likelihood.grey_levels(logits, unit, scale), wanted.sum((1, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize("scale", [1e-3, 0.1, 10.0])
def test_grey_levels_have_probabilities_that_sum_to_one(scale):
    x = np.arange(256, dtype=np.float32).reshape(256, 1, 1, 1) / 255
    found = likelihood.grey_levels(jnp.full_like(x, 0.7), x, jnp.float32(scale))
    assert logsumexp(np.asarray(found, np.float64)) == pytest.approx(0, abs=2e-3)


def test_kl_against_integration():
    mean, log_variance = 0.8, -1.3
    q = stats.norm(mean, math.exp(log_variance / 2))
    wanted, _ = integrate.quad(lambda z: q.pdf(z) * (q.logpdf(z) - stats.norm.logpdf(z)), -10, 10)
    found = likelihood.kl_to_prior(jnp.full((1, 2), mean), jnp.full((1, 2), log_variance))
    assert float(found[0]) == pytest.approx(2 * wanted, rel=1e-5)


@pytest.fixture(scope="module")
def narrow():
    """A model with one latent number that says much of the image, and each image's exact bounds in nats."""
    config = Model(channels=(4,), latent=1, likelihood="gaussian", scale=0.3)
    made_by, batch = family(config), rows(4)
    model = made(made_by)
    model.from_latent[...] = 4 * model.from_latent[...]
    z, x = np.linspace(-9, 9, 6001), batch["image"] / 255
    logits = np.asarray(jax.jit(model.decode)(jnp.array(z[:, None], jnp.float32)), np.float64)
    fit = stats.norm.logpdf(x[:, None], expit(logits), 0.3).sum((2, 3, 4))  # log p(x | z) [B, Z]
    mean, log_variance = (np.asarray(m, np.float64) for m in model.encode(jnp.array(x, jnp.float32)))
    step = z[1] - z[0]
    q = stats.norm.pdf(z, mean, np.exp(log_variance / 2)) * step
    reconstruction = -(q * fit).sum(1)
    kl = (q * (stats.norm.logpdf(z, mean, np.exp(log_variance / 2)) - stats.norm.logpdf(z))).sum(1)
    exact = -logsumexp(fit + stats.norm.logpdf(z) + math.log(step), axis=1)
    return config, model, batch, reconstruction, kl, exact


def scored(config, model, batch, samples):
    made_by = family(dataclasses.replace(config, bound_samples=samples))
    keys, weight = jax.random.split(jax.random.key(3), len(batch["image"])), np.ones(len(batch["image"]))
    found = jax.jit(made_by.evaluate)(model, batch, weight, keys)
    return {name: float(total / count) for name, (total, count) in found.items()}


def test_bounds_against_the_exact_marginal(narrow):
    config, model, batch, reconstruction, kl, exact = narrow
    loose, some, many = (scored(config, model, batch, samples) for samples in (1, 16, 8192))
    truth = exact.mean() / 64
    assert many["kl"] == pytest.approx(kl.mean() / 64, rel=1e-4)
    assert many["reconstruction"] == pytest.approx(reconstruction.mean() / 64, rel=0.02)
    assert many["test_loss"] == pytest.approx(many["reconstruction"] + many["kl"], rel=1e-5)
    weighted = [found["importance_weighted_loss"] for found in (loose, some, many)]
    gap = many["test_loss"] - truth
    assert gap > 0.01
    assert weighted[0] > weighted[1] > weighted[2] > truth - 0.02 * gap
    assert weighted[2] == pytest.approx(truth, abs=0.1 * gap)


def test_bits_are_those_of_the_grey_levels(narrow):
    config, model, batch, *_ = narrow
    found = scored(config, model, batch, 4096)
    derived = family(config).derive(found)
    assert derived.keys() == found.keys() - {"code_length"} | {"bits_per_dim"}
    # a wide Gaussian's mass at an inner level is its density times the level's width
    inner = {**batch, "image": np.clip(batch["image"], 1, 254)}
    found = scored(config, model, inner, 64)
    bits = (found["test_loss"] + math.log(255)) / math.log(2)
    assert family(config).derive(found)["bits_per_dim"] == pytest.approx(bits, rel=1e-4)


def test_bernoulli_bits_follow_from_the_loss():
    made_by, batch = family(), rows()
    found = scored(SMALL, made(made_by), batch, 2)
    derived = made_by.derive(found)
    assert derived["bits_per_dim"] == pytest.approx(derived["test_loss"] / math.log(2), rel=1e-5)
    assert derived.keys() <= made_by.units.keys()
    assert made_by.units["bits_per_dim"] == "bits/dim of binarised images"


def test_rows_of_weight_zero_do_not_count():
    made_by, batch, keys = family(), rows(), jax.random.split(jax.random.key(0), 4)
    model, evaluate = made(made_by), jax.jit(made_by.evaluate)
    found = evaluate(model, batch, np.array([1, 0, 1, 0], np.float32), keys)
    kept = {name: values[[0, 2]] for name, values in batch.items()}
    alone = evaluate(model, kept, np.ones(2, np.float32), keys[np.array([0, 2])])
    for name, (total, weight) in found.items():
        assert float(total) == pytest.approx(float(alone[name][0]), rel=1e-5)
        assert float(weight) == float(alone[name][1]) == 2 * 64


def test_training_loss_is_the_bound_with_its_kl_warmed_up():
    config = dataclasses.replace(SMALL, beta=3.0, kl_warmup=0.5)
    made_by, batch, key = family(config), rows(), jax.random.key(4)
    model, loss = made(made_by), jax.jit(made_by.loss)
    mean, log_variance = (np.asarray(m, np.float64) for m in model.encode(jnp.array(batch["image"] / 255.0)))
    z = mean + np.exp(log_variance / 2) * np.asarray(jax.random.normal(key, mean.shape))
    p = expit(np.asarray(model.decode(jnp.array(z, jnp.float32)), np.float64))
    unit = batch["image"] / 255
    reconstruction = -(unit * np.log(p) + (1 - unit) * np.log(1 - p)).sum()
    kl = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).sum()
    for progress, beta in ((0.0, 0.0), (0.25, 1.5), (0.5, 3.0), (0.9, 3.0)):
        total, weight, terms = loss(model, batch, key, jnp.float32(progress))
        assert float(total) == pytest.approx(reconstruction + beta * kl, rel=1e-5)
        assert float(weight) == 4 and float(terms["kl"]) == pytest.approx(kl / 4, rel=1e-4)


@pytest.mark.slow
def test_gradient_against_finite_differences():
    config = Model(
        channels=(8,), kernel=3, blocks=1, norm="group", latent=2, likelihood="gaussian", scale=0.5
    )
    made_by, batch, key = family(config), rows(), jax.random.key(4)
    # residual branches begin at zero, where group normalisation bends too sharply for differences
    model = jax.tree.map(lambda w: w + 0.1 * draws(w.size, *w.shape), made(made_by))
    value = jax.jit(lambda model: made_by.loss(model, batch, key, jnp.float32(1.0))[0])
    gradient = jax.tree.leaves(jax.jit(jax.grad(value))(model))
    leaves, tree = jax.tree.flatten(model)
    direction = [draws(i, *leaf.shape) for i, leaf in enumerate(leaves)]
    wanted = sum(float(np.vdot(g, d)) for g, d in zip(gradient, direction, strict=True))
    step = 2e-4
    ahead, behind = (
        float(value(jax.tree.unflatten(tree, [x + s * d for x, d in zip(leaves, direction, strict=True)])))
        for s in (step, -step)
    )
    assert (ahead - behind) / (2 * step) == pytest.approx(wanted, rel=0.01)


@pytest.mark.slow
def test_learned_scale_is_drawn_to_the_spread_of_the_residuals():
    config = dataclasses.replace(SMALL, likelihood="gaussian", scale=0.2)
    made_by, batch, key = family(config), rows(), jax.random.key(4)
    model = made(made_by)
    slope = jax.grad(lambda model: made_by.loss(model, batch, key, jnp.float32(0.0))[0])(model).log_scale[...]
    mean, log_variance = model.encode(jnp.array(batch["image"] / 255.0))
    z = mean + jnp.exp(log_variance / 2) * jax.random.normal(key, mean.shape)
    squares = float(np.sum((batch["image"] / 255 - jax.nn.sigmoid(model.decode(z))) ** 2))
    assert float(slope[0]) == pytest.approx(4 * 64 - squares / 0.2**2, rel=1e-4)


@pytest.mark.parametrize("draw", ["mean", "full"])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_a_decoder_that_gives_nan_draws_no_picture(likelihood, draw):
    """Black would pass for one."""
    made_by = family(dataclasses.replace(SMALL, likelihood=likelihood), draw=draw)
    model = jax.tree.map(lambda w: jnp.nan * w, made(made_by))
    drawn = jax.jit(made_by.sample)(model, jax.random.split(jax.random.key(0), 4), rows())
    assert np.isnan(drawn["image"]).all()


@pytest.mark.slow
def test_rows_are_drawn_by_their_keys():
    keys, given = jax.random.split(jax.random.key(0), 9), rows(9)
    for config in (SMALL, dataclasses.replace(SMALL, likelihood="gaussian", scale=0.05)):
        model = made(family(config))
        drawn = {}
        for draw in ("mean", "full"):
            made_by = family(config, draw=draw)
            sample = jax.jit(made_by.sample)
            whole = jax.tree.map(np.asarray, sample(model, keys, given))
            assert {k: v.shape[1:] for k, v in whole.items()} == {k: s for k, (s, _) in made_by.spec.items()}
            assert np.all(whole["label"] == -1)
            part = sample(model, keys[3:5], {name: values[3:5] for name, values in given.items()})["image"]
            np.testing.assert_allclose(np.asarray(part, int), whole["image"][3:5].astype(int), atol=1)
            assert len({row.tobytes() for row in whole["image"]}) == 9
            drawn[draw] = whole["image"] / 255.0
        if config.likelihood == "bernoulli":
            assert set(np.unique(drawn["full"])) == {0.0, 1.0}
            assert abs(drawn["full"].mean() - drawn["mean"].mean()) < 4 * 0.5 / 24
        else:
            assert np.std(drawn["full"] - drawn["mean"]) == pytest.approx(0.05, rel=0.1)


@pytest.mark.slow
def test_seeds_side_by_side_give_the_numbers_of_one_at_a_time():
    config = Model(channels=(8,), blocks=1, norm="group", latent=2)
    made_by = family(config)
    keys = jax.random.split(jax.random.key(0), 2)
    models = jax.jit(jax.vmap(lambda key: made_by.init(nnx.Rngs(key))))(keys)
    batches = jax.tree.map(lambda *each: np.stack(each), rows(seed=0), rows(seed=1))

    def one(model, batch, key):
        return jax.value_and_grad(lambda m: made_by.loss(m, batch, key, jnp.float32(1))[0])(model)

    losses, gradients = jax.jit(jax.vmap(one))(models, batches, keys)
    for i in range(2):
        alone = jax.jit(one)(*jax.tree.map(lambda x, i=i: x[i], (models, batches, keys)))
        assert float(losses[i]) == pytest.approx(float(alone[0]), rel=1e-5)
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-3, atol=1e-3), gradients, alone[1]
        )


@pytest.mark.slow
def test_it_learns_more_of_digits_than_each_pixels_mean():
    pixels = load_digits().data.reshape(-1, 8, 8, 1) / 16
    image = np.round(255 * pixels).astype(np.uint8)
    train, test = image[:1500], image[1500:]
    mean = np.clip(train.mean(0) / 255, 1e-3, 1 - 1e-3)
    unit = test / 255
    alone = -(unit * np.log(mean) + (1 - unit) * np.log(1 - mean)).mean()
    config = Model(channels=(16, 32), latent=6, bound_samples=4)
    made_by, tx = family(config), optax.adam(4e-3)
    model = made(made_by)

    @jax.jit
    def step(model, state, batch, key):
        gradient = jax.grad(lambda m: made_by.loss(m, batch, key, jnp.float32(1))[0] / 64)(model)
        updates, state = tx.update(gradient, state)
        return optax.apply_updates(model, updates), state

    state, order = tx.init(model), np.random.default_rng(0)
    for i in range(250):
        batch = {"image": train[order.integers(0, 1500, 64)]}
        model, state = step(model, state, batch, jax.random.key(i))
    found = scored(config, model, {"image": test}, 4)
    assert found["test_loss"] < alone - 0.02 and found["kl"] > 0.02


@pytest.mark.slow
def test_bfloat16_is_close():
    model = made(family())
    half = VAE(dataclasses.replace(SMALL, dtype="bfloat16"), (8, 8, 1), nnx.Rngs(1))
    nnx.update(half, nnx.state(model))
    z = draws(0, 4, 3)
    exact = model.decode(jnp.array(z))
    np.testing.assert_allclose(half.decode(jnp.array(z)), exact, atol=0.05 * np.abs(exact).max())


def test_what_people_look_at():
    made_by, real = family(), rows(5)
    model, key = made(made_by), jax.random.key(0)
    shown = made_by.show(model, rows(7, seed=1), real, key)
    assert [len(shown[kind]) for kind in ("pictures", "shares")] == [2, 0]
    samples, pairs = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(p["png"])))) for p in shown["pictures"]
    )
    assert samples.shape == (8 * 9 - 1, 8 * 9 - 1)
    np.testing.assert_array_equal(pairs[:8, :8], real["image"][0, :, :, 0])
    mean, _ = model.encode(jnp.array(real["image"] / 255.0))
    again = np.asarray(jax.nn.sigmoid(model.decode(mean)))[0, :, :, 0]
    np.testing.assert_allclose(pairs[:8, 9:17], 255 * again, atol=0.51)
    assert shown["pictures"] == made_by.show(model, rows(7), real, key)["pictures"]


def test_equal_settings_are_one_static_value():
    assert family() == family() and hash(family()) == hash(family())
    assert family() != family(draw="full")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"channels": ()}, "channels=() must be whole numbers above 0"),
        ({"channels": (8, 0)}, "channels=(8, 0) must be"),
        ({"channels": (8, 12), "norm": "group"}, "must be multiples of 8"),
    ],
)
def test_impossible_settings_are_named(settings, said):
    assert any(said in line for line in Model(**settings).problems())


def test_images_that_do_not_fit_are_refused_in_one_line():
    with pytest.raises(BadInput, match=r"2 stages .* 4 divides .* 10 x 8; set data\.size") as error:
        family(shape=(10, 8, 1))
    assert "\n" not in str(error.value)


MESH = """
import json
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec as P
from collapse_jax import mesh
from collapse_jax.families.vae import Model, Sample, VAEFamily
from collapse_jax.lanes import over

config = Model(channels=(8, 16), kernel=3, blocks=1, norm="group", latent=4, likelihood="gaussian", bound_samples=2)
family = VAEFamily(config, Sample("full"), (8, 8, 3), None)
found = {}
for shape in ((1, 1, 1), (2, 2, 2)):
    m = mesh.make(*shape, fsdp=shape[0] > 1)
    put = lambda x, *axes: jax.device_put(x, NamedSharding(m, P(*axes)))
    keys = put(jax.random.split(jax.random.key(0), 2), "seed")
    model = jax.jit(over(lambda key: family.init(nnx.Rngs(key)), 2, (0,)))(keys)
    image = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 8, 3)).astype(np.uint8)
    batch = {"image": put(image, "seed", "data"), "label": put(np.zeros((2, 8), np.int32), "seed", "data")}
    row_keys = put(jax.random.split(jax.random.key(7), (2, 8)), "seed", "data")
    weight = put(np.ones((2, 8), np.float32), "seed", "data")

    def go(model, batch, key, weight_B, keys_B):
        loss = lambda m: family.loss(m, batch, key, jnp.float32(0.5))[0]
        value, gradient = jax.value_and_grad(loss)(model)
        return value, gradient, family.evaluate(model, batch, weight_B, keys_B), family.sample(model, keys_B, batch)

    value, gradient, scores, drawn = jax.jit(over(go, 2, (0,) * 5))(model, batch, keys, weight, row_keys)
    for x, g in zip(jax.tree.leaves(model), jax.tree.leaves(gradient)):
        assert x.sharding.is_equivalent_to(g.sharding, x.ndim), (x.sharding, g.sharding)
    norm = sum((np.asarray(g, np.float64) ** 2).sum() for g in jax.tree.leaves(jax.device_get(gradient)))
    scores = {name: np.asarray(total).tolist() for name, (total, _) in scores.items()}
    found[str(shape)] = [np.asarray(value).tolist(), norm, scores, np.asarray(drawn["image"]).tolist()]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_eight_devices_give_the_numbers_of_one():
    (value, norm, scores, drawn), others = run(MESH, devices=8).values()
    assert others[0] == pytest.approx(value, rel=1e-5)
    assert others[1] == pytest.approx(norm, rel=1e-4)
    for name, totals in scores.items():
        assert others[2][name] == pytest.approx(totals, rel=1e-5)
    np.testing.assert_allclose(others[3], drawn, atol=1)
