"""What families of images share: grey levels, the grid, the data with its features, the measures together."""

import base64
import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from collapse_jax.config import BadInput, resolve, template
from collapse_jax.data.dataset import describe
from collapse_jax.data.images import ImageData
from collapse_jax.data.images import prepare as prepare_rows
from collapse_jax.families import images
from collapse_jax.measures import features, networks

NO_LABEL = -1


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def digits(store):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "EPOCHS", 10)
        return images.prepare(images.Data(), store)


class Batches:
    """Rows in batches of 100, as often as they are asked for."""

    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        for first in range(0, len(self.rows["label"]), 100):
            yield {name: values[first : first + 100] for name, values in self.rows.items()}


def read(dataset, split):
    with dataset.rows(split) as source:
        return source.read(0, len(source))


def measured(dataset, samples):
    judge = dataclasses.replace(dataset.features, kept={})
    real, test = Batches(read(dataset, "train")), Batches(read(dataset, "test"))
    return images.measure(judge, Batches(samples), real, test)


def changed(rows, image=None, label=None):
    return {
        "image": rows["image"] if image is None else image,
        "label": rows["label"] if label is None else label,
    }


@pytest.mark.parametrize("signed", [False, True])
def test_every_grey_level_survives_the_way_there_and_back(signed):
    levels = np.arange(256, dtype=np.uint8)
    values = images.to_float(levels, signed)
    assert values.dtype == np.float32
    assert (float(values[0]), float(values[-1])) == (-1 if signed else 0, 1)
    np.testing.assert_array_equal(images.to_levels(values, signed), levels)
    np.testing.assert_array_equal(images.to_levels(np.array([-7.0, 7.0]), signed), [0, 255])
    np.testing.assert_array_equal(images.to_levels(np.array([np.nan, np.inf, -np.inf]), signed), np.nan)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_grid_holds_every_image_between_white_lines(channels):
    drawn = np.random.default_rng(0).integers(0, 255, (5, 4, 6, channels), dtype=np.uint8)
    grid = np.asarray(Image.open(io.BytesIO(base64.b64decode(images.grid_png(drawn, columns=3, scale=2)))))
    grid = grid.reshape(*grid.shape[:2], channels)
    assert grid.shape == (2 * 9, 2 * 20, channels)
    grid = grid[::2, ::2]
    for i, image in enumerate(drawn):
        top, left = 5 * (i // 3), 7 * (i % 3)
        np.testing.assert_array_equal(grid[top : top + 4, left : left + 6], image)
    assert (grid[4] == 255).all() and (grid[:, 6] == 255).all() and (grid[5:, 14:] == 255).all()


def test_data_are_known_by_their_rows_and_their_features(digits, store, monkeypatch):
    rows = prepare_rows(ImageData(), store)
    assert digits.path == rows.path and digits.row_count("train") == rows.row_count("train")
    assert digits.verify() == []
    assert digits.digest != rows.digest
    assert images.prepare(images.Data(), store).digest == digits.digest
    assert "LeNet" in describe(digits)
    other = dataclasses.replace(digits.features, digest="other")
    monkeypatch.setattr(features, "obtain", lambda *_: other)
    assert images.prepare(images.Data(), store).digest != digits.digest


def test_settings_are_those_of_the_rows_and_the_space():
    settings = resolve(images.Data, {**template(images.Data()).to_dict(), "features": "random", "size": 16})
    assert (settings.features, settings.size) == ("random", 16)
    with pytest.raises(BadInput, match=r"features='nothing' .*"):
        resolve(images.Data, {"features": "nothing"})
    with pytest.raises(BadInput, match=r"channels=2 .*"):
        resolve(images.Data, {"channels": 2})


def test_copies_of_the_training_rows_are_perfect_and_memorised(digits):
    real = read(digits, "train")
    found = measured(digits, real)
    assert set(found) == set(images.UNITS)
    assert found == pytest.approx(
        found | {"frechet_distance": 0, "variance_ratio": 1, "smallest_share": 1, "memorisation": 1}
        | {"precision": 1, "recall": 1, "coverage": 1}, abs=1e-3
    )  # fmt: skip


def test_held_out_rows_are_good_samples_and_not_memorised(digits):
    found = measured(digits, read(digits, "test"))
    assert found["memorisation"] == 0
    assert found["precision"] > 0.85 and found["recall"] > 0.85 and found["class_confusion"] < 0.05
    assert found["class_coverage"] > 0.9


def test_a_collapsing_model_is_seen_by_every_measure_it_should_be(digits):
    real = read(digits, "train")
    few = {name: values[real["label"] < 3] for name, values in real.items()}
    mean = np.broadcast_to(few["image"].mean(0).astype(np.uint8), few["image"].shape)
    good, lost, single = (measured(digits, rows) for rows in (real, few, changed(few, image=mean)))
    for name in ("recall", "coverage", "class_coverage", "class_entropy", "variance_ratio", "pixel_variance"):
        assert good[name] > lost[name] >= single[name], name
    assert good["frechet_distance"] < lost["frechet_distance"] < single["frechet_distance"]
    assert lost["class_coverage"] == pytest.approx(0.3, abs=0.01)
    assert lost["smallest_share"] == single["variance_ratio"] == single["recall"] == 0
    assert lost["precision"] == lost["memorisation"] == 1
    assert single["memorisation"] == 0


def test_confusion_is_between_the_classes_asked_for_and_those_seen(digits):
    test = read(digits, "test")
    seen = digits.features.classify(test["image"])
    wrong = seen.copy()
    wrong[:20] = (wrong[:20] + 1) % 10
    assert measured(digits, changed(test, label=seen))["class_confusion"] == 0
    assert measured(digits, changed(test, label=wrong))["class_confusion"] == pytest.approx(20 / len(seen))
    assert "class_confusion" not in measured(digits, changed(test, label=np.full_like(seen, NO_LABEL)))


def test_few_samples_give_the_measures_that_can_be_taken(digits):
    test = read(digits, "test")
    for count in (1, 2, 6):
        found = measured(digits, {name: values[:count] for name, values in test.items()})
        assert ("frechet_distance" in found) == (count > 1)
        assert ("recall" in found) == (count > 5)
        assert set(found) <= set(images.UNITS) and np.isfinite(list(found.values())).all()


def test_the_cost_is_bounded_and_real_rows_are_judged_once(digits, monkeypatch):
    monkeypatch.setattr(images, "ROWS", 150)
    monkeypatch.setattr(images, "TRAINED", 250)
    monkeypatch.setattr(images, "SOUGHT", 50)
    real, seen = read(digits, "train"), []
    judge = dataclasses.replace(digits.features, kept={})

    def watched(name):
        for batch in Batches(real):
            seen.append(name)
            yield batch

    class Watched:
        def __init__(self, name):
            self.name = name

        def __iter__(self):
            return watched(self.name)

    def call():
        return images.measure(judge, Watched("samples"), Watched("real"), Watched("test"))

    first = call()
    assert judge.kept["reference"].features_TD.shape == (250, 84)
    assert len(judge.kept["reference"].radii_N) == 150
    assert first["memorisation"] == 0  # the held-out rows are copies as well here
    assert first["coverage"] == first["smallest_share"] == 1
    assert {name: seen.count(name) for name in seen} == {"samples": 2, "real": 2 + 3, "test": 1}
    seen.clear()
    assert call() == first
    assert seen == ["samples"] * 2


def test_shares_for_people_are_those_of_the_classifier(digits):
    real = read(digits, "train")
    zeros = {name: values[real["label"] == 0][:40] for name, values in real.items()}
    judge = dataclasses.replace(digits.features, kept={})
    [found] = images.shares(judge, zeros, {name: values[:64] for name, values in real.items()})
    assert found["names"] == list("0123456789")
    assert found["values"][0] > 0.95 and sum(found["values"]) == pytest.approx(1)
    few = np.bincount(judge.classify(real["image"][:64]), minlength=10) / 64
    np.testing.assert_allclose(found["real"], few)
    images.measure(judge, Batches(zeros), Batches(real), Batches(zeros))
    [found] = images.shares(judge, zeros, {name: values[:64] for name, values in real.items()})
    every = np.bincount(judge.classify(real["image"]), minlength=10) / len(real["label"])
    np.testing.assert_allclose(found["real"], every)
    plain = dataclasses.replace(judge, classes=())
    assert images.shares(plain, zeros, real) == []
