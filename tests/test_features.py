"""Feature spaces of images: their networks against plain sums, their classifier against held-out digits, their file."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate

from collapse_jax import mesh
from collapse_jax.config import BadInput
from collapse_jax.data.images import ImageData, prepare
from collapse_jax.measures import features as spaces
from collapse_jax.measures import images as measures
from collapse_jax.measures import inception, networks


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def digits(store):
    return prepare(ImageData(), store)


@pytest.fixture(scope="module")
def classifier(digits, store):
    return spaces.obtain("auto", digits, store)


def read(dataset, split, count=10**9):
    with dataset.rows(split) as source:
        return source.read(0, min(count, len(source)))


def without_classes(dataset):
    return dataclasses.replace(dataset, digest="other", info={**dataset.info, "classes": []})


def convolved(weights, image):
    """Convolution, largest of 2 x 2 and ReLU, channel by channel."""
    x = image.astype(np.float64) / 127.5 - 1
    for i in range(9):
        if f"conv{i}" not in weights:
            return x.ravel()
        kernel = weights[f"conv{i}"].astype(np.float64)
        out = [
            sum(correlate(x[:, :, c], kernel[:, :, c, d], mode="same") for c in range(x.shape[2]))
            for d in range(kernel.shape[3])
        ]
        x = np.stack(out, -1) + weights[f"conv{i}_bias"]
        h, w = x.shape[0] // 2, x.shape[1] // 2
        x = np.array(
            [[x[2 * r : 2 * r + 2, 2 * s : 2 * s + 2].max((0, 1)) for s in range(w)] for r in range(h)]
        )
        x = np.maximum(x, 0)
    raise AssertionError


def test_the_networks_are_the_plain_sums():
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (2, 19, 16, 3), dtype=np.uint8)  # an odd side on the way
    weights = networks.lenet_weights(images.shape[1:], 4)
    weights |= {k: draw.normal(size=w.shape).astype(np.float32) for k, w in weights.items() if "bias" in k}
    found, logits = networks.lenet(weights, images)
    for image, features, scores in zip(images, found, logits, strict=True):
        x = convolved(weights, image)
        for i in (0, 1):
            x = np.maximum(x @ weights[f"dense{i}"] + weights[f"dense{i}_bias"], 0)
        np.testing.assert_allclose(features, x, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(
            scores, x @ weights["dense2"] + weights["dense2_bias"], rtol=1e-4, atol=1e-4
        )
    weights = networks.random_weights(images.shape[1:])
    weights |= {"mean": draw.normal(size=128), "scale": draw.random(128)}
    for image, features in zip(images, networks.random_features(weights, images), strict=True):
        raw = convolved(weights, image) @ weights["projection"]
        np.testing.assert_allclose(features, (raw - weights["mean"]) * weights["scale"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", [4, 8, 28, 64, 128])
def test_every_size_of_image_has_networks(side):
    for channels in (1, 3):
        images = jax.ShapeDtypeStruct((2, side, side, channels), np.uint8)
        found = jax.eval_shape(networks.lenet, networks.lenet_weights(images.shape[1:], 7), images)
        assert [x.shape for x in found] == [(2, 84), (2, 7)]
        weights = networks.random_weights(images.shape[1:])
        assert jax.eval_shape(networks.random_features, weights, images).shape == (2, 128)


def test_the_classifier_names_held_out_digits(digits, classifier):
    test = read(digits, "test")
    right = (classifier.classify(test["image"]) == test["label"]).mean()
    assert right > 0.95
    assert classifier.accuracy == right
    assert classifier.space == "classifier" and classifier.classes == tuple("0123456789")
    assert f"{right:.1%}" in classifier.about


def test_features_do_not_depend_on_the_batch(digits, classifier):
    images = read(digits, "train", 300)["image"]
    whole = classifier(images)
    assert whole.shape == (300, 84) and whole.dtype == np.float32
    parts = np.concatenate([classifier(images[:1]), classifier(images[1:270]), classifier(images[270:])])
    np.testing.assert_allclose(whole, parts, rtol=1e-6, atol=1e-6)


def test_features_are_the_same_on_a_mesh(digits, classifier):
    images = read(digits, "train", 20)["image"]
    alone = classifier(images)
    mesh.make()
    np.testing.assert_array_equal(classifier(images), alone)


def test_what_was_made_once_is_read_again(digits, classifier, store, monkeypatch):
    monkeypatch.setattr(networks, "train_lenet", None)
    again = spaces.obtain("classifier", digits, store)
    assert (again.digest, again.accuracy) == (classifier.digest, classifier.accuracy)
    images = read(digits, "test")["image"]
    np.testing.assert_array_equal(again(images), classifier(images))


def test_a_damaged_file_is_set_aside_and_made_again_the_same(digits, classifier, store, capsys):
    [path] = (store / "features").glob("*.npz")
    sound = path.read_bytes()
    whole = dict(np.load(path))
    whole["classifier/conv0"] = whole["classifier/conv0"] + 1
    other = path.with_name("other.npz")  # sound, but of other rows
    other.write_bytes(sound)
    with pytest.raises(BadInput, match="does not match its seal"):
        spaces.read(other)
    other.unlink()
    for damage in (sound[:5000], b"", b"not a zip", None):
        if damage is None:
            np.savez(path, **whole)
        else:
            path.write_bytes(damage)
        assert spaces._load(path) is None
        assert "set aside as" in capsys.readouterr().err and not path.exists()
    assert spaces.obtain("classifier", digits, store).digest == classifier.digest
    assert spaces._load(path) is not None
    for aside in (store / "features").glob("*.damaged-*"):
        aside.unlink()


@pytest.fixture(scope="module")
def random(digits, store):
    return spaces.obtain("auto", without_classes(digits), store)


def test_without_classes_features_are_random_and_in_units_of_the_real_rows(digits, random):
    assert random.space == "random" and random.classes == ()
    found = random(read(digits, "train")["image"])
    assert found.shape == (len(found), 128)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(found.std(0), 1, atol=1e-3)


@pytest.mark.parametrize("space", ["classifier", "random"])
def test_the_distance_grows_with_noise_and_with_every_lost_class(digits, space, request):
    features = request.getfixturevalue(space)
    rows, draw = read(digits, "train"), np.random.default_rng(0)
    real = measures.Moments.of(features(rows["image"]))

    def distance(images):
        return measures.frechet_distance(real, measures.Moments.of(features(images)))

    noise = draw.normal(size=rows["image"].shape)
    noisy = [distance(np.clip(rows["image"] + s * noise, 0, 255).astype(np.uint8)) for s in (5, 20, 80)]
    lost = [distance(rows["image"][rows["label"] >= k]) for k in (0, 1, 4, 8)]
    assert lost[0] == pytest.approx(0, abs=1e-4)
    assert noisy == sorted(noisy) and lost == sorted(lost)


def test_spaces_that_cannot_be_are_refused_in_one_line(digits, store, tmp_path):
    assert not spaces.problem("auto")
    assert "features='lenet' is not one of auto, classifier, random" in spaces.problem("lenet")
    assert "no such file" in spaces.problem(str(tmp_path / "inception.safetensors"))
    with pytest.raises(BadInput, match="needs rows of at least two classes") as error:
        spaces.obtain("classifier", without_classes(digits), store)
    assert "\n" not in str(error.value)


def tensors(name, shape, draw):
    norm = {part: draw.random(shape[0]) + 0.5 for part in ("weight", "bias", "running_mean", "running_var")}
    return {f"{name}.conv.weight": draw.normal(size=shape), **{f"{name}.bn.{k}": v for k, v in norm.items()}}


def test_inception_has_the_convolutions_of_the_published_network():
    """torchvision's 27,161,264 parameters less the auxiliary classifier's 3,326,696 and the last layer's 2,049,000."""
    shapes = dict(inception.convolutions())
    assert len(shapes) == 94
    assert sum(np.prod(s) + 2 * s[0] for s in shapes.values()) == 27_161_264 - 3_326_696 - 2_049_000
    assert shapes["Mixed_5b.branch_pool"] == (32, 192, 1, 1)
    assert shapes["Mixed_6c.branch7x7dbl_4"] == (160, 160, 7, 1)
    assert shapes["Mixed_7c.branch3x3dbl_3b"] == (384, 384, 3, 1)
    assert shapes["Mixed_7a.branch7x7x3_4"] == (192, 192, 3, 3)


def test_inception_gives_2048_features_of_grey_and_colour_images():
    weights = {}
    for name, (out, channels, height, width) in inception.convolutions():
        weights[name] = jax.ShapeDtypeStruct((height, width, channels, out), np.float32)
        weights[f"{name}.bias"] = jax.ShapeDtypeStruct((out,), np.float32)
    for shape in ((2, 28, 28, 1), (2, 64, 64, 3)):
        images = jax.ShapeDtypeStruct(shape, np.uint8)
        assert jax.eval_shape(inception.features, weights, images).shape == (2, 2048)


def test_folding_the_normalisation_into_a_convolution_changes_nothing(monkeypatch):
    draw = np.random.default_rng(0)
    monkeypatch.setattr(inception, "convolutions", lambda: iter([("a", (5, 3, 1, 1))]))
    given = tensors("a", (5, 3, 1, 1), draw)
    folded = inception.fold(given, "f")
    x = draw.normal(size=(7, 3))
    y = x @ given["a.conv.weight"][:, :, 0, 0].T - given["a.bn.running_mean"]
    y = y / np.sqrt(given["a.bn.running_var"] + 1e-3) * given["a.bn.weight"] + given["a.bn.bias"]
    np.testing.assert_allclose(x @ folded["a"][0, 0] + folded["a.bias"], y, rtol=1e-5, atol=1e-5)


def test_weights_of_another_network_are_refused_by_the_first_that_does_not_fit():
    given = tensors("Conv2d_1a_3x3", (32, 3, 3, 3), np.random.default_rng(0))
    with pytest.raises(BadInput, match=r"^w has no Conv2d_2a_3x3\.conv\.weight; give the weights"):
        inception.fold(given, "w")
    given["Conv2d_1a_3x3.bn.bias"] = np.zeros(4)
    with pytest.raises(BadInput, match=r"^w: Conv2d_1a_3x3\.bn\.bias has shape \[4\], not \[32\]"):
        inception.fold(given, "w")


def test_poolings_are_the_plain_ones():
    x = np.random.default_rng(0).normal(size=(1, 7, 6, 2)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=np.nan)
    for kind, reduce in (("mean", np.nanmean), ("max", np.nanmax)):
        expected = [[reduce(padded[0, i : i + 3, j : j + 3], (0, 1)) for j in range(6)] for i in range(7)]
        np.testing.assert_allclose(inception._pooled(kind, jnp.array(x))[0], expected, rtol=1e-5)
    expected = [[x[0, i : i + 3, j : j + 3].max((0, 1)) for j in (0, 2)] for i in (0, 2, 4)]
    np.testing.assert_array_equal(inception._pooled("halve", jnp.array(x))[0], expected)
