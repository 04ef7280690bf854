"""Real images into rows: every source, crop and colour against slow loops, splits by group, and what is refused."""

import dataclasses
import gzip
import hashlib
import io
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from sklearn.datasets import load_digits

from collapse_jax.config import BadInput, resolve
from collapse_jax.data import cache, idx, picture_reader, pictures, splits
from collapse_jax.data.dataset import SPLITS, describe
from collapse_jax.data.images import ImageData, prepare
from collapse_jax.data.text import TextData
from collapse_jax.data.text import prepare as prepare_text

REAL = Path(__file__).parents[2] / "shared" / "data"
MNIST, EMOJI = REAL / "mnist", REAL / "noto-emoji-64" / "small" / "noto_emoji_64_256.npz"
CHANCE = np.random.default_rng(0)


def pixels(count, *shape):
    return CHANCE.integers(0, 256, (count, *shape), dtype=np.uint8)


def png(image, **options):
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, "PNG", **options)
    return file.getvalue()


def all_rows(dataset, split):
    with dataset.rows(split) as source:
        return source.read(0, len(source))


def contents(dataset, names=SPLITS):
    """Multiset of (pixels, class) in the splits."""
    rows = [all_rows(dataset, name) for name in names]
    return sorted((i.tobytes(), int(k)) for r in rows for i, k in zip(r["image"], r["label"], strict=True))


def expected(images, labels):
    return sorted((i.tobytes(), int(k)) for i, k in zip(images, labels, strict=True))


def save(path, **arrays):
    np.savez(path, **arrays)
    return f"npz:{path}"


# --- splits

GROUPS = st.lists(st.integers(0, 12).map(lambda i: f"g{i}"), min_size=3, max_size=60).filter(
    lambda groups: len(set(groups)) >= 3
)


@given(GROUPS, st.floats(0, 0.5), st.floats(0, 0.49), st.integers(0, 5), st.randoms())
@settings(max_examples=150, deadline=None)
def test_groups_stay_together_whatever_the_order(groups, validation, test, seed, chance):
    shares = {"validation": validation, "test": test}
    found = splits.by_group(groups, shares, seed, "x has too few")
    assert sorted(np.concatenate(list(found.values())).tolist()) == list(range(len(groups)))
    of = {name: {groups[i] for i in rows} for name, rows in found.items()}
    assert all(of.values()) and sum(map(len, of.values())) == len(set(groups))
    shuffled = chance.sample(groups, len(groups))
    again = splits.by_group(shuffled, shares, seed, "x has too few")
    assert {name: {shuffled[i] for i in rows} for name, rows in again.items()} == of


@given(st.integers(20, 300), st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_single_pictures_are_held_out_in_exact_shares(count, seed):
    groups = [str(i) for i in range(count)]
    found = splits.by_group(groups, {"validation": 0.1, "test": 0.2}, seed, "")
    assert abs(len(found["validation"]) - 0.1 * count) <= 0.5 and abs(len(found["test"]) - 0.2 * count) <= 0.5


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=40))
@settings(max_examples=100, deadline=None)
def test_groups_that_share_a_picture_are_one(items):
    groups, digests = [str(g) for g, _ in items], [str(c) for _, c in items]
    reached = [{i} for i in range(len(items))]  # by walking: as slow as it is plain
    for _ in items:
        for i, (g, c) in enumerate(items):
            for j, (h, d) in enumerate(items):
                if g == h or c == d:
                    reached[i] |= reached[j]
    merged = splits.merged(groups, digests)
    for i in range(len(items)):
        assert {j for j in range(len(items)) if merged[j] == merged[i]} == reached[i]
        assert merged[i] == min(groups[j] for j in reached[i])


# --- pixels


def lanczos(image, size):
    """Antialiased Lanczos-3 of a [N, N] array by plain loops, in floating point."""
    scale = len(image) / size
    support = 3 * max(scale, 1)
    weights = np.zeros((size, len(image)))
    for i in range(size):
        middle = (i + 0.5) * scale
        for j in range(len(image)):
            x = (j + 0.5 - middle) / max(scale, 1)
            if abs(j + 0.5 - middle) < support:
                weights[i, j] = np.sinc(x) * np.sinc(x / 3)
        weights[i] /= weights[i].sum()
    return np.clip(weights @ image @ weights.T, 0, 255)


@pytest.mark.parametrize(("shape", "size"), [((28, 28, 1), 32), ((30, 44, 3), 8), ((45, 20, 3), 16)])
def test_crop_takes_the_middle_square_and_resizes_it(shape, size):
    smooth = np.cumsum(CHANCE.normal(size=shape), 0) * 8 + 128
    image = np.clip(smooth, 0, 255).astype(np.uint8)
    found = pictures.fitted(image, size, shape[2], "crop")
    side = min(shape[:2])
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    for c in range(shape[2]):
        exact = lanczos(image[top : top + side, left : left + side, c].astype(float), size)
        assert np.abs(found[..., c] - exact).max() <= 2  # rounded to 8 bits after each of two passes


def test_pad_repeats_the_edge():
    image = pixels(1, 3, 4, 3)[0]
    found = pictures.fitted(image, 8, 3, "pad")
    for y in range(8):
        for x in range(8):
            assert (found[y, x] == image[min(max(y - 2, 0), 2), min(max(x - 2, 0), 3)]).all()


def test_grey_is_luma_and_colour_of_grey_repeats_it():
    image = pixels(1, 5, 6, 3)[0]
    grey = pictures.fitted(image, 0, 1, "crop")
    assert np.abs(grey[..., 0] - image @ [0.299, 0.587, 0.114]).max() <= 0.51
    assert (pictures.fitted(grey, 0, 3, "crop") == grey).all()


def over_white(rgba):
    alpha = rgba[..., -1:].astype(float) / 255
    return rgba[..., :-1] * alpha + 255 * (1 - alpha)


def test_every_kind_of_png():
    decode = pictures.Encoded()

    def colour(content):
        return pictures.COLOUR in decode.traits(content)

    grey, rgb, rgba, la = (pixels(1, 7, 9, *c)[0] for c in ((), (3,), (4,), (2,)))
    assert (decode.pixels(png(grey)) == grey[..., None]).all() and not colour(png(grey))
    assert (decode.pixels(png(rgb)) == rgb).all() and colour(png(rgb))
    assert np.abs(decode.pixels(png(rgba)) - over_white(rgba)).max() <= 1
    assert np.abs(decode.pixels(png(la)) - over_white(la)).max() <= 1 and not colour(png(la))
    palette = Image.fromarray(rgb).quantize(16)
    assert (decode.pixels(png(palette)) == np.asarray(palette.convert("RGB"))).all()
    clear = decode.pixels(png(palette, transparency=0))
    assert (clear[np.asarray(palette) == 0] == 255).all()
    bits = grey > 127
    assert (decode.pixels(png(Image.fromarray(bits))) == 255 * bits[..., None]).all()
    deep = CHANCE.integers(0, 1 << 16, (7, 9)).astype(np.uint16)
    assert (decode.pixels(png(deep))[..., 0] == np.rint(deep / 257)).all()


@pytest.mark.parametrize("kind", ["BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000"])
def test_other_formats_are_the_same_pictures(kind):
    grey, rgb = (
        pixels(1, 7, 9)[0],
        np.asarray(Image.fromarray(pixels(1, 7, 9, 3)[0]).quantize(16).convert("RGB")),
    )
    for image, colours in ((grey, 1), (rgb, 3)):
        file = io.BytesIO()
        Image.fromarray(image).save(file, kind, **({"lossless": True} if kind == "WEBP" else {}))
        found = pictures.Encoded().pixels(file.getvalue())
        assert (found == image.reshape(7, 9, colours)).all()
        coloured = colours == 3 or kind in ("GIF", "WEBP")  # which know no grey
        assert pictures.Encoded().traits(file.getvalue()) == ({pictures.COLOUR} if coloured else set())


def test_of_several_frames_the_first_is_taken_and_told():
    frames, file = [Image.fromarray(image) for image in pixels(3, 7, 9)], io.BytesIO()
    frames[0].save(file, "TIFF", save_all=True, append_images=frames[1:])
    assert pictures.Encoded().traits(file.getvalue()) == {pictures.FRAMES}
    assert (pictures.Encoded().pixels(file.getvalue())[..., 0] == np.asarray(frames[0])).all()


@pytest.mark.parametrize(
    ("values", "words"),
    [(np.full((2, 2), 0.5, np.float32), "fractions"), (np.full((2, 2), 70_000, np.int32), "16 bits")],
)
def test_pixels_beyond_grey_levels_are_refused(values, words):
    file = io.BytesIO()
    Image.fromarray(values).save(file, "TIFF")
    with pytest.raises(ValueError, match=words):
        pictures.Encoded().pixels(file.getvalue())


def test_a_picture_that_pillow_only_warns_of_is_refused():
    content = png(Image.new("1", (9_500, 9_500)))
    for read in (pictures.Encoded().traits, pictures.Encoded().pixels):
        with pytest.raises(ValueError, match="decompression bomb"):
            read(content)


def test_a_long_text_does_not_make_a_picture_unreadable():
    image, info = pixels(1, 7, 9, 3)[0], PngInfo()
    info.add_text("workflow", "x" * 2_000_000, zip=True)
    content = png(image, pnginfo=info)
    with pytest.raises(ValueError, match="too large"):
        Image.open(io.BytesIO(content)).load()
    assert (pictures.Encoded().pixels(content) == image).all()
    upright = png(image, pnginfo=info, exif=turned())
    assert pictures.Encoded().pixels(upright).shape == (9, 7, 3)


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    return exif


def test_jpeg_is_turned_upright():
    image = Image.fromarray(np.repeat(np.arange(0, 256, 8, dtype=np.uint8)[:, None], 16, 1))  # dark on top
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95, exif=turned())
    found = pictures.Encoded().pixels(file.getvalue())[..., 0]
    assert found.shape == (16, 32) and (found[:, 0] > 230).all() and (found[:, -1] < 20).all()


def test_cmyk_jpeg_has_colours():
    file = io.BytesIO()
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(file, "JPEG")
    assert np.abs(pictures.Encoded().pixels(file.getvalue())[4, 4].astype(int) - [255, 0, 0]).max() < 10


def as_pixels(*arrays):
    arrays = [pictures.numbers(array) for array in arrays]
    white = pictures.white_level(arrays)
    return np.concatenate([pictures.pixels(array, white) for array in arrays])


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=6)))
@settings(max_examples=50, deadline=None)
def test_numbers_of_every_type_are_the_same_pictures(array):
    array.flat[0] = 200
    whole = as_pixels(array)
    assert whole.shape == (*array.shape, 1) and (whole[..., 0] == array).all()
    for kind in (np.int16, np.int64, np.float32, np.float64):
        assert (as_pixels(array.astype(kind)) == whole).all()
    assert (as_pixels((array / np.float32(255)).astype(np.float32)) == whole).all()
    rgba = np.concatenate([np.repeat(whole, 3, 3), whole[::-1]], 3)
    assert np.abs(as_pixels(rgba) - over_white(rgba)).max() <= 0.51


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int8, np.int64, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("highest", [0, 1, 15, 16])
def test_few_whole_levels_reach_from_black_to_white(kind, highest):
    if kind is bool and highest > 1:
        return
    levels = np.resize(np.arange(highest + 1), (6, 4, 4)).astype(kind)
    found = as_pixels(levels)[..., 0]
    assert (found == np.rint(levels.astype(float) * 255 / max(highest, 1))).all()
    both = as_pixels(
        levels, np.zeros_like(levels), (levels > 0).astype(kind)
    )  # the parts of a source are one
    assert (both[:6, ..., 0] == found).all() and both[-1].max() <= -(-255 // max(highest, 1))
    assert as_pixels(levels, np.full((1, 4, 4), 17, np.uint8))[:6].max() == highest


# --- sources


def test_builtin_digits(tmp_path):
    dataset = prepare(ImageData(), tmp_path)
    digits: Any = load_digits()
    assert contents(dataset) == expected(np.rint(digits.images * 255 / 16).astype(np.uint8), digits.target)
    assert dataset.spec == {"image": ((8, 8, 1), "uint8"), "label": ((), "int32")}
    assert [dataset.row_count(name) for name in SPLITS] == [1437, 180, 180]
    assert dataset.info["classes"] == [str(i) for i in range(10)]
    for name in SPLITS:
        assert dataset.info["class_counts"][name] == np.bincount(all_rows(dataset, name)["label"]).tolist()
    assert "classes    10 (0, 1, 2" in describe(dataset) and "images     8 x 8, grey" in describe(dataset)


@pytest.fixture
def folder(tmp_path):
    """12 pictures in two folders and their pixels; two files that are no pictures."""
    images = pixels(12, 6, 6, 3)
    for i, image in enumerate(images):
        path = tmp_path / "photos" / ("cats", "dogs")[i % 2] / f"{i:02d}.{('png', 'PNG')[i % 3 == 0]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))
    (tmp_path / "photos" / "notes.txt").write_text("no picture")
    (tmp_path / "photos" / "._00.png").write_text("what some systems leave beside files")
    return tmp_path / "photos", images


def test_folders_are_classes(folder, tmp_path):
    path, images = folder
    dataset = prepare(ImageData(source=f"images:{path}"), tmp_path / "s")
    assert contents(dataset) == expected(images, np.arange(12) % 2)
    assert dataset.info["classes"] == ["cats", "dogs"]
    one = prepare(ImageData(source=f"images:{path}/cats/*"), tmp_path / "s")
    assert contents(one) == expected(images[::2], [-1] * 6) and one.info["classes"] == []
    both = prepare(ImageData(source=f"images:{path}/**/*.[pP][nN][gG]"), tmp_path / "s")
    assert both.digest == dataset.digest


def test_what_becomes_of_a_picture_does_not_depend_on_its_name(folder, tmp_path):
    path, _ = folder
    first = prepare(ImageData(source=f"images:{path}"), tmp_path / "s")
    for i, file in enumerate(sorted(path.glob("*s/*"), key=lambda p: p.name[::-1])):
        file.rename(file.with_name(f"x{i}.png"))
    path.rename(tmp_path / "moved")
    again = prepare(ImageData(source=f"images:{tmp_path / 'moved'}"), tmp_path / "t")
    assert again.digest == first.digest and again.path.name == first.path.name


def test_folders_named_after_splits_hold_out(folder, tmp_path):
    path, images = folder
    for i, name in enumerate(["val", "test"]):
        (path / name / "cats").mkdir(parents=True)
        (path / name / "cats" / "only.png").write_bytes(png(255 - images[i]))
    for name in ("cats", "dogs"):
        (path / "train").mkdir(exist_ok=True)
        (path / name).rename(path / "train" / name)
    dataset = prepare(ImageData(source=f"images:{path}"), tmp_path / "s")
    assert contents(dataset, ["train"]) == expected(images, np.arange(12) % 2)
    assert contents(dataset, ["validation"]) == expected(255 - images[:1], [0])
    assert contents(dataset, ["test"]) == expected(255 - images[1:2], [0])


@pytest.mark.parametrize("kind", ["plain", "split", "keras", "upper", "medmnist", "named", "sole"])
def test_npz(tmp_path, kind):
    images, labels = pixels(10, 4, 4), np.arange(10) % 3
    arrays = {
        "plain": {"x": images, "y": labels.astype(np.int16)},
        "split": {"images_train": images[:8], "labels_train": labels[:8], "images_test": images[8:],
                  "labels_test": labels[8:]},
        "keras": {"x_train": images[:8], "y_train": labels[:8], "x_test": images[8:], "y_test": labels[8:]},
        "upper": {"X": images[:8], "Y": labels[:8], "X_Testing": images[8:], "Testing_Y": labels[8:], "z": labels},
        "medmnist": {"train_images": images[:6], "train_labels": labels[:6, None], "val_images": images[6:8],
                     "val_labels": labels[6:8, None], "test_images": images[8:], "test_labels": labels[8:, None]},
        "named": {"faces": images[..., None], "labels": np.array(["a", "b", "c"])[labels], "other": labels},
        "sole": {"pictures": images},
    }[kind]  # fmt: skip
    source = save(tmp_path / "a.npz", **arrays) + (":faces" if kind == "named" else "")
    dataset = prepare(ImageData(source=source), tmp_path / "s")
    assert contents(dataset) == expected(images, labels if kind != "sole" else [-1] * 10)
    assert dataset.info["classes"] == {"named": ["a", "b", "c"], "sole": []}.get(kind, ["0", "1", "2"])
    if kind in ("split", "keras", "upper", "medmnist"):
        assert contents(dataset, ["test"]) == expected(images[8:], labels[8:])
    if kind == "upper":
        assert "arrays: X, Y, X_Testing, Testing_Y; left out: z" in describe(dataset)
    if kind == "medmnist":
        assert contents(dataset, ["validation"]) == expected(images[6:8], labels[6:8])
    if kind == "keras":
        part = prepare(ImageData(source=f"{source}:x_train"), tmp_path / "s")
        assert contents(part) == expected(images[:8], labels[:8])


def test_a_picture_may_have_no_class(tmp_path):
    images, labels = pixels(9, 4, 4), np.array([7, -1, 3, 7, 3, -1, 7, 7, 3])
    dataset = prepare(ImageData(source=save(tmp_path / "a.npz", x=images, labels=labels)), tmp_path)
    assert contents(dataset) == expected(images, [{7: 1, 3: 0, -1: -1}[k] for k in labels.tolist()])
    assert dataset.info["classes"] == ["3", "7"]
    assert np.sum(list(dataset.info["class_counts"].values()), 0).tolist() == [3, 4]


@pytest.mark.parametrize(
    "labels",
    [
        np.array([b"cat", "dög".encode(), b"cat"] * 3),
        np.array([1.0, np.nan, 0.0] * 3),
        np.array([True, False, True] * 3),
        np.array([5, 9, 5], np.uint8).repeat(3),
    ],
    ids=["bytes", "nan", "bool", "numbers"],
)
def test_labels_of_every_type(tmp_path, labels):
    images = pixels(9, 4, 4)
    dataset = prepare(ImageData(source=save(tmp_path / "a.npz", x=images, y=labels)), tmp_path)
    names = [x.decode() if isinstance(x, bytes) else "" if x != x else str(x) for x in labels.tolist()]
    names = [name.removesuffix(".0") for name in names]
    classes = sorted(set(names) - {""})
    assert dataset.info["classes"] == classes
    assert contents(dataset) == expected(images, [classes.index(n) if n else -1 for n in names])
    none = prepare(ImageData(source=save(tmp_path / "a.npz", x=images, y=labels), labels="none"), tmp_path)
    assert contents(none) == expected(images, [-1] * 9) and none.info["classes"] == []


def test_held_out_pictures_may_have_no_labels(tmp_path):
    images = pixels(12, 4, 4)
    source = save(tmp_path / "a.npz", x_train=images[:9], y_train=np.arange(9) % 2, x_test=images[9:])
    dataset = prepare(ImageData(source=source), tmp_path)
    assert contents(dataset, ["test"]) == expected(images[9:], [-1] * 3)
    assert "test rows without a class: 3" in describe(dataset) and dataset.info["classes"] == ["0", "1"]


def write_idx(path, array, zipped=False, kind=0x08):
    raw = bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(raw) if zipped else raw)
    return path


@given(hnp.arrays(np.uint8, hnp.array_shapes(max_dims=4, max_side=5)), st.booleans())
@settings(max_examples=40, deadline=None)
def test_idx_round_trip(tmp_path_factory, array, zipped):
    found = idx.read(write_idx(tmp_path_factory.mktemp("idx") / "x", array, zipped))
    assert found.shape == array.shape and (found == array).all()


@pytest.mark.parametrize("form", ["zipped", "plain", "mixed", "both", "dots"])
def test_idx_with_labels_and_test_images(tmp_path, form):
    images, labels = pixels(12, 5, 4), (np.arange(12) % 4).astype(np.uint8)
    zips = {"zipped": "1111", "mixed": "1001"}.get(form, "0000")
    files = {
        f"{word}-{kind}{'.' if form == 'dots' else '-'}idx{rank}-ubyte": array[part]
        for word, part in (("train", slice(0, 9)), ("t10k", slice(9, 12)))
        for kind, rank, array in (("images", 3, images), ("labels", 1, labels))
    }
    for zipped, (name, array) in zip(zips, files.items(), strict=True):
        write_idx(tmp_path / (f"{name}.gz" if zipped == "1" else name), array, zipped == "1")
        if form == "both":
            write_idx(tmp_path / f"{name}.gz", array, True)
    dataset = prepare(ImageData(source=f"idx:{tmp_path}"), tmp_path / "s")
    assert contents(dataset, ["train", "validation"]) == expected(images[:9], labels[:9])
    assert contents(dataset, ["test"]) == expected(images[9:], labels[9:])
    alone = prepare(ImageData(source=f"idx:{tmp_path}/{list(files)[2]}"), tmp_path / "s")
    assert contents(alone) == expected(images[9:], labels[9:] - labels[9:].min())
    assert alone.info["classes"] == ["1", "2", "3"]


@pytest.fixture(scope="module")
def prepared_tfds(tmp_path_factory):
    """A small TFDS dataset on disk, made and read without TensorFlow, and its images."""
    import tensorflow_datasets as tfds

    images = pixels(12, 5, 6, 3)

    class PicturesOfTests(tfds.core.GeneratorBasedBuilder):
        """Cats and dogs."""

        VERSION = tfds.core.Version("1.2.0")

        def _info(self):
            features = tfds.features.FeaturesDict({
                "image": tfds.features.Image(shape=(None, None, 3)), "attributes": {"young": np.bool_},
                "label": tfds.features.ClassLabel(names=["cat", "dog"]),
                "mask": tfds.features.Image(shape=(None, None, 1)),
                "season": tfds.features.ClassLabel(names=["dry", "wet", "cold"]),
            })  # fmt: skip
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(0, 8), "test": self._generate_examples(8, 12)}

        def _generate_examples(self, first, last):
            for i in range(first, last):
                pictures = {"image": io.BytesIO(png(images[i])), "mask": io.BytesIO(png(255 - images[i]))}
                yield i, {**pictures, "label": i % 2, "season": i % 3, "attributes": {"young": True}}

    directory = tmp_path_factory.mktemp("tfds")
    PicturesOfTests(data_dir=directory, file_format="array_record").download_and_prepare()
    return directory, images


def test_tfds(prepared_tfds, tmp_path):
    directory, images = prepared_tfds
    data = ImageData(source="tfds:pictures_of_tests", data_dir=str(directory))
    dataset = prepare(data, tmp_path)
    assert contents(dataset, ["train", "validation"]) == expected(images[:8], np.arange(8) % 2)
    assert contents(dataset, ["test"]) == expected(images[8:], np.arange(4) % 2)
    assert dataset.info["classes"] == ["cat", "dog"]
    assert dataset.info["about"]["columns"] == "image (pictures), label (classes)"
    masks = dataclasses.replace(data, column="mask", label_column="season")
    masked = prepare(masks, tmp_path)
    assert contents(masked, ["test"]) == expected(255 - images[8:], np.arange(8, 12) % 3)
    assert masked.info["about"]["columns"] == "mask (pictures), season (classes)"
    with pytest.raises(BadInput, match=r"config\.data\.column='label' is no image column .*: image, mask"):
        prepare(dataclasses.replace(data, column="label"), tmp_path)
    part = ImageData(source="tfds:pictures_of_tests:1.*.*:train", data_dir=str(directory))
    assert contents(prepare(part, tmp_path)) == expected(images[:8], np.arange(8) % 2)
    with pytest.raises(BadInput, match="'nights'"):
        prepare(ImageData(source="tfds:pictures_of_tests:nights", data_dir=str(directory)), tmp_path)


# --- rows


def test_settings_of_a_row(tmp_path):
    images = pixels(9, 28, 28)
    source = save(tmp_path / "a.npz", x=images)
    padded = prepare(ImageData(source=source, size=32, fit="pad"), tmp_path)
    assert contents(padded) == expected(np.pad(images, ((0, 0), (2, 2), (2, 2)), "edge"), [-1] * 9)
    colour = prepare(ImageData(source=source, channels=3), tmp_path)
    assert contents(colour) == expected(np.repeat(images[..., None], 3, 3), [-1] * 9)
    small = prepare(ImageData(source=source, size=8), tmp_path)
    assert small.spec["image"] == ((8, 8, 1), "uint8")
    few = prepare(ImageData(source=source, max_rows=2), tmp_path)
    whole = prepare(ImageData(source=source), tmp_path)
    assert (all_rows(few, "train")["image"] == all_rows(whole, "train")["image"][:2]).all()
    assert contents(few, ["test"]) == contents(whole, ["test"])
    digests = {data.digest for data in (padded, colour, small, few, whole)}
    digests.add(prepare(ImageData(source=source, seed=1), tmp_path).digest)
    assert len(digests) == 6


def test_rows_are_not_in_the_order_of_the_source(tmp_path):
    labels = np.repeat(np.arange(5), 20)
    source = save(tmp_path / "a.npz", x=pixels(100, 2, 2), y=labels)
    found = all_rows(prepare(ImageData(source=source), tmp_path), "train")["label"]
    assert len(set(found[:12].tolist())) > 2


def test_variants_stay_together(tmp_path):
    images = pixels(40, 4, 4)
    images[7] = images[12]  # an exact copy ties two groups to each other
    groups = np.arange(40) // 4
    place = {image.tobytes(): 1 if g == 3 else g for image, g in zip(images, groups, strict=True)}
    sources = {
        "group": save(tmp_path / "a.npz", x=images, group=groups),
        "name": save(tmp_path / "b.npz", x=images, name=[f"u{g}_{i}" for i, g in enumerate(groups)]),
    }
    digests = set()
    for kind, source in sources.items():
        data = ImageData(source=source, group=r"^u(\d+)_" if kind == "name" else "", test=0.2)
        dataset = prepare(data, tmp_path / "s")
        found = [{place[i.tobytes()] for i in all_rows(dataset, name)["image"]} for name in SPLITS]
        assert sum(map(len, found)) == len(set.union(*found)) == 9
        assert [dataset.info["splits"][name]["groups"] for name in SPLITS] == [len(f) for f in found]
        assert "exact copies of other pictures: 1" in describe(dataset)
        digests.add(dataset.digest)
    assert len(digests) == 1  # however the groups were said


def test_copies_across_splits_of_the_source_are_told(tmp_path):
    images = pixels(9, 4, 4)
    source = save(tmp_path / "a.npz", x_train=images, x_test=images[:2])
    dataset = prepare(ImageData(source=source, validation=0.1), tmp_path)
    leaked = set(contents(dataset, ["train"])) & set(contents(dataset, ["test"]))
    assert leaked and f"exact copies of training pictures: {len(leaked)}" in describe(dataset)


def test_reused_by_content_and_given_as_rows(folder, tmp_path, monkeypatch):
    data = ImageData(source=f"images:{folder[0]}")
    first = prepare(data, tmp_path / "s")
    monkeypatch.setattr(cache, "_make", lambda *_: pytest.fail("made again"))
    assert prepare(data, tmp_path / "s") == first
    assert prepare(ImageData(source=f"rows:{first.path}"), tmp_path / "t") == first
    assert not (tmp_path / "t").exists()
    with pytest.raises(BadInput, match="rows of image, label, and rows of tokens, length, prompt are needed"):
        prepare_text(TextData(source=f"rows:{first.path}"), tmp_path / "t")


def test_large_sources_are_not_held_in_memory(tmp_path, monkeypatch):
    for i in range(150):
        (tmp_path / f"{i}.png").write_bytes(png(np.full((128, 128, 3), i, np.uint8)))
    monkeypatch.setattr(picture_reader, "BATCH_BYTES", 1 << 19)
    monkeypatch.setattr(cache, "BYTES_PER_SHARD", 1 << 20)
    tracemalloc.start()
    dataset = prepare(ImageData(source=f"images:{tmp_path}"), tmp_path / "s")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6 < 150 * 128 * 128 * 3
    shards = [
        entry["rows"] for name, entry in sorted(dataset.info["files"].items()) if name.startswith("train/")
    ]
    assert shards == [21] * 5 + [15]
    assert sorted(all_rows(dataset, "train")["image"][:, 5, 5, 1]) == sorted(
        all_rows(dataset, "train")["image"].max((1, 2, 3))
    )


# --- real images


@pytest.mark.skipif(not MNIST.exists(), reason="MNIST is not beside the repository")
def test_mnist_is_mnist(tmp_path):
    images, labels = (idx.read(MNIST / f"t10k-{name}-ubyte.gz") for name in ("images-idx3", "labels-idx1"))
    header = struct.pack(">4I", 0x803, 10000, 28, 28)
    assert hashlib.md5(header + images.tobytes()).hexdigest() == "2646ac647ad5339dbf082846283269ea"
    assert np.bincount(labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    dataset = prepare(ImageData(source=f"npz:{MNIST}/small/mnist_1000_200.npz"), tmp_path)
    with np.load(MNIST / "small" / "mnist_1000_200.npz") as small:
        assert contents(dataset, ["test"]) == expected(small["x_test"], small["y_test"])
        assert contents(dataset, ["train", "validation"]) == expected(small["x_train"], small["y_train"])


@pytest.mark.skipif(not EMOJI.exists(), reason="emoji are not beside the repository")
def test_emoji_split_by_base_code_point(tmp_path):
    dataset = prepare(ImageData(source=f"npz:{EMOJI}", group=r"^emoji_u([0-9a-f]+)"), tmp_path)
    with np.load(EMOJI) as archive:
        name = {x.tobytes(): str(n) for x, n in zip(archive["x"], archive["name"], strict=True)}
    base = [
        {name[i.tobytes()].removeprefix("emoji_u").split("_")[0] for i in all_rows(dataset, s)["image"]}
        for s in SPLITS
    ]
    assert not base[0] & base[1] and not base[0] & base[2] and not base[1] & base[2]
    assert dataset.spec["image"] == ((64, 64, 3), "uint8") and abs(dataset.row_count("test") - 26) <= 3


# --- what cannot work


def bad_files(tmp_path):
    """name -> (source, further settings, words of the message)."""
    good = png(pixels(1, 8, 8, 3)[0])

    def photos(name, *contents):
        (tmp_path / name).mkdir()
        for i, content in enumerate(contents):
            (tmp_path / name / f"{i}.png").write_bytes(content)
        return f"images:{tmp_path / name}"

    def archive(name, **arrays):
        return save(tmp_path / f"{name}.npz", **arrays)

    def idx_file(name, raw):
        (tmp_path / name).write_bytes(raw)
        return f"idx:{tmp_path / name}"

    x = pixels(9, 4, 4)
    four = [png(image) for image in pixels(4, 8, 8, 3)]
    nan = np.ones((9, 4, 4))
    nan[5, 0, 0] = np.nan
    idx_good = bytes([0, 0, 8, 3]) + struct.pack(">3I", *x.shape) + x.tobytes()
    (tmp_path / "broken.npz").write_bytes(Path(archive("ok", x=x).removeprefix("npz:")).read_bytes()[:-40])
    flipped = bytearray((tmp_path / "ok.npz").read_bytes())
    flipped[200] ^= 1
    (tmp_path / "flipped.npz").write_bytes(flipped)
    np.save(tmp_path / "alone.npy", x)
    (tmp_path / "alone.npy").rename(tmp_path / "alone.npz")
    write_idx(tmp_path / "short-images-idx3-ubyte", x)
    write_idx(tmp_path / "short-labels-idx1-ubyte", np.zeros(8, np.uint8))
    evil = np.array([{"a": 1}] * 9, object)
    return {
        "cut png": (photos("cut", *four, good[:-30]), {}, r"cut/4\.png .*cannot be decoded"),
        "flipped png": (photos("flip", *four, good[:60] + b"\0\0" + good[62:]), {}, r"flip/4\.png "),
        "no picture": (photos("text", *four, b"hello"), {}, r"text/4\.png is no PNG, JPEG"),
        "bomb": (photos("bomb", *four, png(Image.new("1", (20_000, 20_000)))), {}, r"bomb/4\.png .*decompression bomb"),
        "sizes": (photos("sizes", *four, png(x[0])), {}, "pixels and others are .* set size"),
        "to pad": (photos("large", *four), {"size": 4, "fit": "pad"}, r"large/\d.png is 8 x 8 pixels, too large"),
        "empty folder": (photos("empty"), {}, r"empty has no .png"),
        "no match": (f"images:{tmp_path}/no/*.png", {}, "matches no file"),
        "too few": (photos("two", *four[:2]), {}, r"has 2 separate picture.* train, validation, test need one each"),
        "copies only": (photos("same", *[good] * 5), {}, "has 1 separate"),
        "channels": (archive("five", x=pixels(9, 4, 4, 5)), {}, r"five.npz:x has shape \[9, 4, 4, 5\]"),
        "flat": (archive("flat", x=x.reshape(9, 16)), {}, r"has shape \[9, 16\]"),
        "no pixels": (archive("none", x=x[:, :0]), {}, r"has shape \[9, 0, 4\]"),
        "nan": (archive("nan", x=nan), {}, "nan.npz:x is not finite in picture 5"),
        "range": (archive("range", x=x.astype(np.int32) * 2 + 1), {}, "holds values from"),
        "signed": (archive("signed", x=nan[:5] - 1.5), {}, "holds values from -0.5 to -0.5"),
        "strings": (archive("strings", x=np.full((9, 2, 2), "a")), {}, "pictures are numbers"),
        "labels": (archive("labels", x=x, y=np.zeros(8, int)), {}, r"9 pictures and labels of shape \[8\]"),
        "one-hot": (archive("hot", x=x, y=np.eye(9, dtype=int)), {}, r"labels of shape \[9, 9\]"),
        "half labels": (archive("half", x_train=x, x_test=x, y_test=np.zeros(9, int)), {}, "has no labels"),
        "odd labels": (archive("odd", x=x, y=np.full(9, 0.5)), {}, "label 0.5 is neither a whole number nor a name"),
        "infinite labels": (archive("inf", x=x, y=np.full(9, np.inf)), {}, "the label inf is neither"),
        "imaginary labels": (archive("imaginary", x=x, y=np.full(9, 1j)), {}, "labels of type complex128"),
        "two of images": (archive("twice", x=x, images=x), {}, "has images in x and images; say which: npz:FILE:KEY"),
        "two of labels": (archive("labelled", x=x, y=x[:, 0, 0], label=x[:, 0, 0]), {}, "has labels in y and label"),
        "groups": (archive("groups", x=x, group=np.zeros(3)), {}, r"9 pictures and groups of shape \[3\]"),
        "shapes": (archive("shapes", x_train=x, x_test=x[:, 1:]), {}, "another shape"),
        "no names": (archive("nameless", x=x), {"group": "a"}, "have no names"),
        "no key": (archive("key", x=x) + ":z", {}, "has no array 'z'; there are x"),
        "which": (archive("which", a=x, b=x), {}, "say which holds the images"),
        "pickle": (archive("pickle", x=evil), {}, "pickle.npz is no npz archive of arrays .*allow_pickle=False"),
        "cut npz": (f"npz:{tmp_path}/broken.npz", {}, "broken.npz is no npz archive"),
        "flipped npz": (f"npz:{tmp_path}/flipped.npz", {}, "flipped.npz is no npz archive"),
        "npy": (f"npz:{tmp_path}/alone.npz", {}, "single array"),
        "no npz": (f"npz:{tmp_path}/nowhere.npz", {}, "nowhere.npz cannot be read: No such file"),
        "npz folder": (f"npz:{tmp_path}", {}, "cannot be read: Is a directory"),
        "cut idx": (idx_file("cut-idx", idx_good[:-3]), {}, r"141 bytes where its header says \[9, 4, 4\]"),
        "long idx": (idx_file("long-idx", idx_good + b"x"), {}, "more bytes"),
        "idx header": (idx_file("head-idx", idx_good[:9]), {}, "ends within its header"),
        "idx magic": (idx_file("magic", b"PK\3\4abc"), {}, "is no IDX file"),
        "empty idx": (idx_file("nothing", b""), {}, "begins with nothing"),
        "idx floats": (idx_file("floats", b"\0\0\x0d\3" + idx_good[4:]), {}, "type 0x0d"),
        "cut gz": (idx_file("cut.gz", gzip.compress(idx_good)[:-12]), {}, "cut.gz is damaged"),
        "bad gz": (idx_file("bad.gz", gzip.compress(idx_good)[:-8] + bytes(8)), {}, "bad.gz is damaged"),
        "idx rank": (idx_file("rank", b"\0\0\x08\1\0\0\0\2ab"), {}, r"has shape \[2\]"),
        "idx labels": (f"idx:{tmp_path}/short-images-idx3-ubyte", {}, r"labels of shape \[8\]"),
        "idx folder": (f"idx:{tmp_path}", {}, "has 0 files"),
        "no idx": (f"idx:{tmp_path}/nowhere", {}, "cannot be read: No such file"),
        "source": ("photos", {}, "is not one of"),
        "builtin": ("builtin:faces", {}, "builtin:digits"),
        "two channels": ("builtin:digits", {"channels": 2}, "channels=2"),
        "pad to what": ("builtin:digits", {"fit": "pad"}, "needs a size"),
        "regex": ("builtin:digits", {"group": "("}, "no regular expression"),
        "shares": ("builtin:digits", {"validation": 0.5, "test": 0.5}, "nothing to train on"),
        "tfds": ("tfds:no_such_images", {"data_dir": str(tmp_path)}, "cannot be read"),
        "no rows": (f"rows:{tmp_path}", {}, "collapse import"),
    }  # fmt: skip


def test_what_cannot_be_used_is_one_line_and_leaves_nothing(tmp_path):
    store = tmp_path / "store"
    for name, (source, changes, words) in bad_files(tmp_path).items():
        with pytest.raises(BadInput, match=words) as caught:
            prepare(ImageData(source=source, **changes), store)
        assert "\n" not in str(caught.value), name
        assert not [p for p in store.rglob("*") if p.is_file()], name


def test_unreadable_pictures_are_named_together_or_left_out(tmp_path):
    images = pixels(12, 6, 6, 3)
    for i, image in enumerate(images):
        (tmp_path / f"{i:02d}.png").write_bytes(png(image))
    (tmp_path / "02.png").write_bytes(png(images[2])[:-30])
    (tmp_path / "05.png").write_bytes(b"")
    (tmp_path / "07.png").unlink()
    (tmp_path / "07.png").symlink_to(tmp_path / "nowhere")
    source = f"images:{tmp_path}"
    with pytest.raises(
        BadInput, match=r"3 of 12 .*02\.png cannot.*05\.png is no.*07\.png cannot be read: No such"
    ) as one:
        prepare(ImageData(source=source), tmp_path / "s")
    assert "set unreadable='leave out'" in str(one.value) and "\n" not in str(one.value)
    dataset = prepare(ImageData(source=source, unreadable="leave out"), tmp_path / "s")
    assert contents(dataset) == expected(np.delete(images, [2, 5, 7], 0), [-1] * 9)
    (note,) = dataset.info["notes"]
    assert note.startswith("left out, unreadable: ") and all(f"{i:02d}.png" in note for i in (2, 5, 7))


def test_what_is_told_is_of_the_source_as_it_is(folder, tmp_path):
    """Rows that are found again come with notes on what was left out this time."""
    path, _ = folder
    assert "left out, no pictures of a kind that is read: 1 .txt" in describe(
        prepare(ImageData(source=f"images:{path}"), tmp_path / "s")
    )
    (path / "notes.txt").unlink()
    again = describe(prepare(ImageData(source=f"images:{path}"), tmp_path / "s"))
    assert ".txt" not in again and "set labels='none' where folders are no classes" in again


def test_a_picture_that_changes_while_it_is_read_is_refused(folder, tmp_path, monkeypatch):
    path, images = folder
    scan = picture_reader.scan

    def then_changed(found):
        known = scan(found)
        (path / "cats" / "02.png").write_bytes(png(255 - images[2]))
        return known

    monkeypatch.setattr(picture_reader, "scan", then_changed)
    with pytest.raises(BadInput, match=r"cats/02\.png changed while it was read"):
        prepare(ImageData(source=f"images:{path}"), tmp_path / "s")


def test_archives_are_only_read(tmp_path):
    """Members that would unpack to places outside are nothing but names."""
    names = ["x", "../outside", f"{tmp_path}/absolute"]
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name in names:
            file = io.BytesIO()
            np.save(file, pixels(9, 4, 4))
            archive.writestr(f"{name}.npy", file.getvalue())
    before = set(tmp_path.parent.iterdir())
    for name in names:
        prepare(ImageData(source=f"npz:{tmp_path}/a.npz:{name}"), tmp_path / "s")
    assert set(tmp_path.parent.iterdir()) == before
    assert {p.suffix for p in tmp_path.rglob("*") if p.is_file()} == {".npz", ".json", ".array_record"}


def test_settings_from_a_config():
    assert resolve(ImageData, {"size": 64, "fit": "pad"}) == ImageData(size=64, fit="pad")
    with pytest.raises(BadInput, match=r"size=2000 .*fit='stretch'.*|fit='stretch'.*"):
        resolve(ImageData, {"size": 2000, "fit": "stretch"})
