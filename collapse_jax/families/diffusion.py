"""The diffusion family: a denoiser of images, told their class or not, and how it is built from settings and data.

Rows are {"image": uint8 [H, W, C], "label": int32 []}, the label -1 where there is none. Pixels are brought to
[-1, 1]. A synthetic row gets the class of the real row that it is sampled for, and -1 from a model that is not
told classes.
"""

import dataclasses
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from collapse_jax.config import BadInput, number
from collapse_jax.data.records import Row, Spec
from collapse_jax.families import Batch, Rows, images
from collapse_jax.families.images import Data as Data
from collapse_jax.families.images import ImageDataset
from collapse_jax.families.images import prepare as prepare
from collapse_jax.measures.features import Features
from collapse_jax.models.denoiser import Denoiser, DenoiserConfig
from collapse_jax.models.diffusion import Noising, bound_terms, loss_terms
from collapse_jax.sampling.decode import reshard
from collapse_jax.sampling.denoise import Denoising, denoise, problems, start

BIN = 2 / 255  # one grey level of pixels in [-1, 1]
SHOWN = 48  # images in the grid that people look at

UNITS = {
    "test_loss": "nats/dim",
    "sample_loss_under_first": "nats/dim",
    "bits_per_dim": "bits/dim",
    "bound_steps": "nats/dim",
    "bound_decoder": "nats/dim",
    **images.UNITS,
}


@dataclasses.dataclass(frozen=True)
class Model(DenoiserConfig):
    """The network and the process that it inverts."""

    noising: Noising = Noising()


@dataclasses.dataclass(frozen=True)
class Sample(Denoising):
    """How images are drawn.

    guidance: w of classifier-free guidance: (1 + w) times the output for the class minus w times the output
        without (Ho and Salimans 2022). MAD's sampling bias is lambda = 1 / (1 + w); 0 is no bias, lambda = 1.
    """

    guidance: float = number(0.0, 0.0, 1000.0)


@dataclasses.dataclass(frozen=True)
class DiffusionFamily:
    """Images by diffusion; `classes` is 0 where the network is not told any."""

    model: Model
    sampling: Sample
    shape: tuple[int, int, int]
    classes: int
    features: Features = dataclasses.field(compare=False, repr=False)

    @property
    def spec(self) -> Spec:
        return {"image": (self.shape, "uint8"), "label": ((), "int32")}

    @property
    def items(self) -> tuple[str, int]:
        return "images", 1

    @property
    def units(self) -> Mapping[str, str]:
        return UNITS

    @property
    def dims(self) -> int:
        return math.prod(self.shape)

    def init(self, rngs: nnx.Rngs) -> Denoiser:
        return Denoiser(self.model, self.shape, self.classes, rngs)

    def _output(self, model: Any, x_t: jax.Array, t: jax.Array, label_B: jax.Array) -> jax.Array:
        """The network's output [B, H, W, C]; t is [B] or one time for all rows []."""
        time_B = jnp.broadcast_to(t.astype(jnp.float32) / self.model.noising.steps, label_B.shape)
        return model(x_t, time_B, label_B)

    def loss(
        self, model: Any, batch: Batch, key: jax.Array, progress: jax.Array
    ) -> tuple[jax.Array, jax.Array, dict]:
        """(weighted squared error per dimension summed over rows, rows, {}); some labels are hidden."""
        key_label, key_noise = jax.random.split(key)
        label_B = batch["label"]
        hidden_B = jax.random.bernoulli(key_label, self.model.label_dropout, label_B.shape)
        label_B = jnp.where(hidden_B, -1, label_B)
        errors_B = loss_terms(
            lambda x_t, t: self._output(model, x_t, t, label_B),
            images.to_float(batch["image"], signed=True),
            key_noise,
            self.model.noising,
        )
        return errors_B.sum() / self.dims, jnp.float32(len(label_B)), {}

    def evaluate(self, model: Any, batch: Batch, row_weight_B: jax.Array, keys_B: jax.Array) -> dict:
        """The variational bound, given the class where the network is told it, and its two learned terms."""
        terms = bound_terms(
            lambda x_t, t: self._output(model, x_t, t, batch["label"]),
            images.to_float(batch["image"], signed=True),
            keys_B,
            self.model.noising,
            limit=1.0,
            bin_width=BIN,
        )
        weight_B = row_weight_B.astype(jnp.float32)
        total = weight_B.sum() * self.dims

        def mean(nats_B: jax.Array) -> tuple[jax.Array, jax.Array]:
            return jnp.sum(nats_B * weight_B), total

        return {
            "test_loss": mean(sum(terms.values(), jnp.zeros(()))),
            "bound_steps": mean(terms["steps"]),
            "bound_decoder": mean(terms["decoder"]),
        }

    def derive(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The bound in nats and in bits per dimension."""
        return {**metrics, "bits_per_dim": metrics["test_loss"] / math.log(2)}

    def sample(self, model: Any, keys_B: jax.Array, rows_B: Batch) -> Batch:
        """One image a key, of the class of the real row."""
        label_B = rows_B["label"].astype(jnp.int32) if self.classes else jnp.full_like(rows_B["label"], -1)
        w = self.sampling.guidance

        def predict(x_t: jax.Array, t: jax.Array) -> jax.Array:
            told = self._output(model, x_t, t, label_B)
            if not w:
                return told
            return (1 + w) * told - w * self._output(model, x_t, t, jnp.full_like(label_B, -1))

        x = start(keys_B, self.shape)
        x = denoise(predict, x, keys_B, self.model.noising, self.sampling, limit=1.0)
        return {"image": images.to_levels(x, signed=True), "label": label_B}

    def measure(self, model: Any, samples: Rows, real: Rows, test: Rows) -> dict[str, float]:
        """What the families of images share: distances, precision and recall, class shares, copies."""
        return images.measure(self.features, samples, real, test)

    def show(self, model: Any, samples: Row, real: Row, key: jax.Array) -> dict[str, Any]:
        """Images drawn from the same noise in every generation, a column a class, and the shares of classes."""
        columns = self.classes if 0 < self.classes <= 16 else 8
        label_B = np.arange(SHOWN // columns * columns, dtype=np.int32) % columns
        title = "Samples (same noise)" + (", a class a column" if self.classes == columns else "")
        drawn = np.asarray(_drawn(self, model, key, label_B))[: len(label_B)]
        picture = {"title": title, "png": images.grid_png(drawn, columns), "pixelated": True}
        return {"pictures": [picture], "shares": images.shares(self.features, samples, real)}


def _drawn(family: DiffusionFamily, model: Any, key: jax.Array, label_B: np.ndarray) -> jax.Array:
    """An image for every label, on every device; some more images where the rows must fill the devices."""
    ways = jax.sharding.get_abstract_mesh().shape.get("data", 1)
    return _draw(family, model, key, np.resize(label_B, -(-len(label_B) // ways) * ways))


@partial(jax.jit, static_argnums=0)
def _draw(family: DiffusionFamily, model: Any, key: jax.Array, label_B: jax.Array) -> jax.Array:
    keys_B = jax.random.split(key, len(label_B))
    drawn = family.sample(model, reshard(keys_B, "data"), {"label": reshard(label_B, "data")})
    return reshard(drawn["image"])


def build(model: Model, data: Data, sample: Sample, dataset: ImageDataset) -> DiffusionFamily:
    """The family for these rows. Raises `BadInput` where model, sampling and rows do not fit each other."""
    height, width, channels = dataset.spec["image"][0]
    classes = len(dataset.info["classes"]) if model.conditional else 0
    lines = problems(model.noising, sample)
    if height % model.patch or width % model.patch:
        lines.append(f"model.patch={model.patch} does not divide the images' {height} x {width} pixels")
    if model.conditional and not classes:
        lines.append("the images have no classes to tell the model; set model.conditional=False")
    if sample.guidance and not (classes and model.label_dropout):
        lines.append("sample.guidance needs model.conditional=True and model.label_dropout above 0")
    parts = jax.sharding.get_abstract_mesh().shape.get("model", 1)
    split = {"heads": model.heads, "hidden units": model.hidden}
    lines += [
        f"mesh.model={parts} does not divide the model's {size} {name}; choose a divisor"
        for name, size in split.items()
        if size % parts
    ]
    if lines:
        raise BadInput("; ".join(lines))
    return DiffusionFamily(model, sample, (height, width, channels), classes, dataset.features)
