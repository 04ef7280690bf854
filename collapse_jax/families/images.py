"""What the families of images share: rows, the space their samples are judged in, and pictures of them.

Rows are {"image": uint8 [H, W, C], "label": int32 []}, with -1 where there is no label.
"""

import base64
import dataclasses
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from collapse_jax import files
from collapse_jax.config import path
from collapse_jax.data import images as data_images
from collapse_jax.data.dataset import Dataset
from collapse_jax.data.images import ImageData
from collapse_jax.data.records import Row
from collapse_jax.families import Rows
from collapse_jax.measures import features as spaces
from collapse_jax.measures import images as measures
from collapse_jax.measures.features import Features

ROWS = 5_000  # samples and real rows that are compared: the first, which stand in no order
TRAINED = 50_000  # training rows among which the nearest to a sample is sought
SOUGHT = 2_000  # samples, and held-out rows, for which it is

UNITS = measures.UNITS


@dataclass(frozen=True)
class Data(ImageData):
    """Real images and the space that samples are judged in.

    features: "classifier", "random", the path of a .safetensors file with the weights of InceptionV3, or
        "auto": the classifier where the rows have labels, random ones otherwise.
    """

    features: str = path("auto")

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if wrong := spaces.problem(self.features):
            yield wrong


@dataclass(frozen=True)
class ImageDataset(Dataset):
    """Real images and their feature space; `digest` identifies both."""

    features: Features = dataclasses.field(compare=False, repr=False)


def prepare(data: Data, store: Path) -> ImageDataset:
    """The rows of the settings and their feature space, both made once and kept in `store`.

    Raises `BadInput` where the source, the settings or the disk do not allow it.
    """
    plain = ImageData(**{f.name: getattr(data, f.name) for f in dataclasses.fields(ImageData)})
    rows = data_images.prepare(plain, store)
    features = spaces.obtain(data.features, rows, Path(store))
    digest = hashlib.sha256(files.canonical([rows.digest, features.digest])).hexdigest()
    about = {**rows.info.get("about", {}), "features": features.about}
    return ImageDataset(rows.path, digest, rows.spec, {**rows.info, "about": about}, features)


def to_float(images: jax.Array | np.ndarray, signed: bool = False) -> jax.Array:
    """Grey levels 0..255 as float32 in [0, 1], or in [-1, 1] where `signed` (traceable)."""
    unit = jnp.asarray(images, jnp.float32) / 255
    return 2 * unit - 1 if signed else unit


def to_levels(images: jax.Array | np.ndarray, signed: bool = False) -> jax.Array:
    """The nearest grey levels of values in [0, 1], or in [-1, 1] where `signed`; clipped (traceable).

    Floating point, so that what is not finite is still seen: NaN there, and no grey level.
    """
    unit = (images + 1) / 2 if signed else images
    levels = jnp.clip(jnp.round(255 * unit), 0, 255)
    return jnp.where(jnp.isfinite(unit), levels, jnp.nan)


def grid_png(images_NHWC: np.ndarray, columns: int = 8, scale: int = 1) -> str:
    """A PNG (base64) of images in rows of `columns`, white lines between them, pixels `scale` wide.

    images_NHWC: grey levels; what is NaN stays white.
    """
    images_NHWC = np.nan_to_num(np.asarray(images_NHWC), nan=255)
    count, height, width, channels = images_NHWC.shape
    columns = max(1, min(columns, count))
    lines = -(-count // columns)
    grid = np.full((lines * (height + 1) - 1, columns * (width + 1) - 1, channels), 255, np.uint8)
    for i, image_HWC in enumerate(images_NHWC):
        top, left = (height + 1) * (i // columns), (width + 1) * (i % columns)
        grid[top : top + height, left : left + width] = image_HWC
    grid = grid.repeat(scale, 0).repeat(scale, 1)
    packed = io.BytesIO()
    Image.fromarray(grid[:, :, 0] if channels == 1 else grid).save(packed, "PNG", optimize=True)
    return base64.b64encode(packed.getvalue()).decode()


def shares(features: Features, samples: Row, real: Row) -> list[dict[str, Any]]:
    """For `show`: the share of each class among samples and real rows, as the classifier reads both.

    Empty where the data has no classes.
    """
    if not features.classes:
        return []
    number = len(features.classes)
    of = [measures.class_shares(features.classify(rows["image"]), number) for rows in (samples, real)]
    if "reference" in features.kept:
        of[1] = features.kept["reference"].shares_K
    return [
        {
            "title": "Class share of samples",
            "names": list(features.classes),
            "values": of[0].tolist(),
            "real": of[1].tolist(),
        }
    ]


@dataclass(frozen=True)
class Reference:
    """What the measures need of the real rows.

    features_TD: of up to `TRAINED` training rows; the first `ROWS` of them are those that samples are compared
    with, and their moments, manifold (as far as it can be), class shares and pixel variance are given.
    """

    features_TD: np.ndarray
    moments: measures.Moments | None
    radii_N: np.ndarray | None
    held_out_copies: float
    shares_K: np.ndarray
    variance: float


def measure(features: Features, samples: Rows, real: Rows, test: Rows) -> dict[str, float]:
    """The measures of `UNITS` of samples against real training and held-out rows, those that can be taken.

    The first `ROWS` samples and training rows are compared, so that numbers of generations with equally many
    samples are comparable and a large generation is judged as fast as a small one. Without classes there are no
    measures of classes, without labels of the samples (-1) no class_confusion, and nothing that needs more rows
    than there are: two for moments, `NEIGHBOURS` + 1 for manifolds. What is known of the real rows is worked out
    at the first call and kept with `features`.
    """
    if "reference" not in features.kept:
        features.kept["reference"] = _reference(features, real, test)
    known: Reference = features.kept["reference"]
    rows = _first(samples, ROWS)
    drawn_ND = features(rows["image"])
    variance = measures.pixel_variance(rows["image"])
    found = {"pixel_variance": variance}
    if known.variance > 0:
        found["variance_ratio"] = variance / known.variance
    if known.moments is not None and len(drawn_ND) > 1:
        found["frechet_distance"] = measures.frechet_distance(known.moments, measures.Moments.of(drawn_ND))
    if known.radii_N is not None and len(drawn_ND) > measures.NEIGHBOURS:
        real_ND = known.features_TD[: len(known.radii_N)]
        found |= measures.manifolds(real_ND, drawn_ND, known.radii_N, measures.radii(drawn_ND))
    if len(known.features_TD) > 1:
        copies = measures.copies(drawn_ND[:SOUGHT], known.features_TD)
        found["memorisation"] = copies - known.held_out_copies
    if features.classes:
        class_N = features.classify(rows["image"])
        found |= measures.classes(measures.class_shares(class_N, len(features.classes)), known.shares_K)
        if (labelled_N := rows["label"] >= 0).any():
            found["class_confusion"] = float((class_N != rows["label"])[labelled_N].mean())
    return found


def _reference(features: Features, real: Rows, test: Rows) -> Reference:
    compared, held_out = _first(real, ROWS)["image"], _first(test, SOUGHT)["image"]
    seen, parts = 0, []
    for batch in real:
        parts.append(features(batch["image"][: TRAINED - seen]))
        seen += len(parts[-1])
        if seen >= TRAINED:
            break
    features_TD, number = np.concatenate(parts), len(features.classes)
    return Reference(
        features_TD,
        measures.Moments.of(features_TD[:ROWS]) if seen > 1 else None,
        measures.radii(features_TD[:ROWS]) if seen > measures.NEIGHBOURS else None,
        measures.copies(features(held_out), features_TD) if seen > 1 else 0.0,
        measures.class_shares(features.classify(compared), number) if number else np.zeros(0),
        measures.pixel_variance(compared),
    )


def _first(rows: Rows, limit: int) -> Row:
    """The first rows as one batch."""
    taken, left = [], limit
    for batch in rows:
        taken.append({name: np.asarray(values)[:left] for name, values in batch.items()})
        left -= len(taken[-1]["image"])
        if left <= 0:
            break
    return {name: np.concatenate([batch[name] for batch in taken]) for name in ("image", "label")}
