"""The diffusion family: its loss and bound per row, what a sample takes from real rows, and what it refuses."""

import base64
import dataclasses
import io
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from collapse_jax.config import BadInput, resolve
from collapse_jax.families.diffusion import SHOWN, UNITS, Data, Model, Sample, build
from collapse_jax.models.diffusion import Noising

SHAPE, CLASSES = (4, 4, 1), 3
NOISING = Noising(20, target="v", bound_draws=4)
SMALL = Model(patch=2, layers=1, width=16, heads=2, noising=NOISING)
FEW = Sample(sampler="heun", steps=3)


def family(model=SMALL, sample=FEW, shape=SHAPE, classes=CLASSES):
    dataset = SimpleNamespace(
        spec={"image": (shape, "uint8"), "label": ((), "int32")},
        info={"classes": [str(i) for i in range(classes)]},
        features=SimpleNamespace(classes=()),
    )
    return build(model, Data(), sample, dataset)  # pyright: ignore[reportArgumentType]


def batch(rows=4):
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (rows, *SHAPE)).astype(np.uint8)
    return {"image": images, "label": np.arange(rows, dtype=np.int32) % CLASSES}


class Half:
    """A network that always answers the same for a class, and less where it is told none."""

    def __call__(self, x, time_B, label_B):
        level = jnp.where(label_B < 0, 0.0, 0.1 + 0.2 * label_B)
        return jnp.broadcast_to(level[:, None, None, None], x.shape)


EXACT = dataclasses.replace(SMALL, noising=Noising(20, target="x0", bound_draws=64))


def test_the_loss_is_that_of_each_row_per_dimension():
    """x_0 predicted, all classes told: the squared distance to the answer."""
    made, rows = family(dataclasses.replace(EXACT, label_dropout=0.0)), batch()
    total, weight, _ = jax.jit(lambda rows: made.loss(Half(), rows, jax.random.key(0), jnp.zeros(())))(rows)
    x0 = rows["image"] / 127.5 - 1
    wanted = ((x0 - (0.1 + 0.2 * rows["label"])[:, None, None, None]) ** 2).mean((1, 2, 3)).sum()
    assert float(total) == pytest.approx(wanted, rel=1e-5) and float(weight) == 4


def test_labels_are_hidden_from_a_share_of_the_rows():
    made, rows = family(dataclasses.replace(EXACT, label_dropout=0.25)), batch()
    rows = jax.tree.map(lambda x: np.tile(x[:1], (2000, *[1] * (x.ndim - 1))), rows)
    total, weight, _ = jax.jit(lambda rows: made.loss(Half(), rows, jax.random.key(0), jnp.zeros(())))(rows)
    x0 = rows["image"][0] / 127.5 - 1
    told, hidden = ((x0 - 0.1) ** 2).mean(), (x0**2).mean()
    share = (float(total / weight) - told) / (hidden - told)
    assert share == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 2000))


def test_the_test_loss_is_the_bound_of_rows_that_count():
    made, rows = family(EXACT), batch()
    keys = jax.random.split(jax.random.key(0), 4)
    run = jax.jit(lambda rows, weight, keys: made.evaluate(Half(), rows, weight, keys))
    found = run(rows, np.array([1, 0, 1, 0], np.float32), keys)
    kept = np.array([0, 2])
    alone = run({name: x[kept] for name, x in rows.items()}, np.ones(2, np.float32), keys[kept])
    for name, (nats, weight) in found.items():
        assert float(weight) == 2 * 16
        assert float(nats) == pytest.approx(float(alone[name][0]), rel=1e-5)
    mean = {name: float(nats / weight) for name, (nats, weight) in found.items()}
    prior = mean["test_loss"] - mean["bound_steps"] - mean["bound_decoder"]
    assert abs(prior) < 1e-3
    whole = made.derive(mean)
    assert whole["bits_per_dim"] == pytest.approx(mean["test_loss"] / math.log(2))
    assert set(whole) <= set(made.units) and made.units == UNITS


@pytest.fixture(scope="module")
def weights():
    """A fresh network, all of whose weights are moved so that nothing is 0."""
    made = family()
    fresh = jax.jit(lambda key: made.init(nnx.Rngs(key)))(jax.random.key(0))
    return jax.tree.map(lambda x: x + 0.05, fresh)


def test_rows_have_the_form_of_real_ones_and_know_only_their_key_and_class(weights):
    made, rows = family(), batch(8)
    keys = jax.random.split(jax.random.key(1), 8)
    draw = jax.jit(made.sample)
    drawn = jax.tree.map(np.asarray, draw(weights, keys, rows))
    assert {k: v.shape[1:] for k, v in drawn.items()} == {k: shape for k, (shape, _) in made.spec.items()}
    np.testing.assert_array_equal(drawn["label"], rows["label"])
    again = {"image": 0 * rows["image"], "label": rows["label"]}
    order = np.array([5, 2, 7, 0, 1, 3, 4, 6])
    other = draw(weights, keys[order], {name: x[order] for name, x in again.items()})
    apart = np.abs(other["image"].astype(int) - drawn["image"][order])
    assert apart.max() <= 1  # rounding to grey levels
    changed = draw(weights, keys, {**rows, "label": (rows["label"] + 1) % CLASSES})
    assert np.any(changed["image"] != drawn["image"])


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "heun"])
@pytest.mark.parametrize("gives", [np.nan, np.inf, -np.inf])
def test_a_network_that_gives_nothing_finite_draws_no_picture(sampler, gives):
    """Black would pass for one, and so would the limits that estimates are cut to."""
    made, rows = family(EXACT, Sample(sampler, 3)), batch(2)
    bad = lambda x, time_B, label_B: jnp.full_like(x, gives)  # noqa: E731
    drawn = jax.jit(lambda keys: made.sample(bad, keys, rows))(jax.random.split(jax.random.key(0), 2))
    assert np.isnan(drawn["image"]).all()
    scored = jax.jit(lambda keys: made.evaluate(bad, rows, jnp.ones(2), keys))(
        jax.random.split(jax.random.key(1), 2)
    )
    assert not np.isfinite(scored["test_loss"][0])


@pytest.mark.slow
def test_an_unconditional_model_gives_no_labels(weights):
    made = family(dataclasses.replace(SMALL, conditional=False))
    model = jax.jit(lambda: made.init(nnx.Rngs(0)))()
    drawn = jax.jit(made.sample)(model, jax.random.split(jax.random.key(1), 4), batch())
    assert np.all(np.asarray(drawn["label"]) == -1) and made.classes == 0


@pytest.mark.parametrize("bias", [1.0, 0.8, 0.5])
def test_guidance_is_mad_s_lambda(bias):
    """With x_0 predicted in one step, the sample is (1 + w) told - w hidden, w = 1 / lambda - 1."""
    made = family(EXACT, Sample("ddim", 1, guidance=1 / bias - 1))
    rows = {"image": np.zeros((2, *SHAPE), np.uint8), "label": np.array([1, 2], np.int32)}
    drawn = jax.jit(lambda keys: made.sample(Half(), keys, rows))(jax.random.split(jax.random.key(0), 2))
    wanted = np.clip((0.1 + 0.2 * rows["label"]) / bias, -1, 1)
    np.testing.assert_allclose(np.asarray(drawn["image"])[:, 0, 0, 0] / 127.5 - 1, wanted, atol=1 / 255)


def test_people_see_the_same_noise_a_class_a_column(weights):
    made, rows = family(), batch()
    found = [made.show(weights, rows, rows, jax.random.key(5)) for _ in range(2)]
    assert found[0] == found[1]
    (picture,) = found[0]["pictures"]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture["png"]))))
    assert pixels.shape == (SHOWN // CLASSES * 5 - 1, CLASSES * 5 - 1)
    assert made.show(weights, rows, rows, jax.random.key(6)) != found[0]


def test_equal_settings_are_one_static_value():
    assert family() == family() and hash(family()) == hash(family())
    assert family() != family(sample=Sample())


def test_what_does_not_fit_is_refused_in_one_line():
    with pytest.raises(
        BadInput, match=r"steps=30 exceeds the 20 .*patch=3 does not divide .* 4 x 4"
    ) as error:
        family(dataclasses.replace(SMALL, patch=3), Sample(steps=30))
    assert "\n" not in str(error.value)
    with pytest.raises(BadInput, match=r"no classes .* set model\.conditional=False; .*guidance needs"):
        family(sample=Sample(guidance=1.0), classes=0)
    with pytest.raises(BadInput, match="guidance needs"):
        family(dataclasses.replace(SMALL, label_dropout=0.0), Sample(guidance=1.0))
    with pytest.raises(BadInput, match=r"config\.noising: beta_first=0\.5"):
        resolve(Model, {"noising": {"schedule": "linear", "beta_first": 0.5}})
    with pytest.raises(BadInput, match=r"heads=5 must divide width=128"):
        resolve(Model, {"heads": 5})
