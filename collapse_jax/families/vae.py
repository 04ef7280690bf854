"""The VAE family: images through a latent vector, and how it is built from settings and data.

Rows are {"image": uint8 [H, W, C], "label": int32 []}; intensities are image / 255. Synthetic rows are drawn from
the prior and have label -1.
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

from collapse_jax.config import BadInput, choice
from collapse_jax.data.records import Row, Spec
from collapse_jax.families import Batch, Rows, images
from collapse_jax.families.images import Data as Data
from collapse_jax.families.images import ImageDataset
from collapse_jax.families.images import prepare as prepare
from collapse_jax.measures.features import Features
from collapse_jax.models import likelihood
from collapse_jax.models.layers import placed
from collapse_jax.models.vae import VAE, VAEConfig, misfits
from collapse_jax.sampling.decode import reshard

Model = VAEConfig

SAMPLES, COLUMNS = 64, 8  # of the grid that people look at
PAIRS = 32  # of images and their reconstructions


@dataclasses.dataclass(frozen=True)
class Sample:
    """How images are drawn given a latent vector from the prior.

    draw: "mean" takes the mean of the likelihood, as the papers do; "full" draws from the likelihood.
    """

    draw: str = choice("mean", ("mean", "full"))


@dataclasses.dataclass(frozen=True)
class VAEFamily:
    """Images [H, W, C] by a variational autoencoder.

    The training loss is the negative beta-ELBO in nats per image. Images are scored by the plain ELBO (beta = 1):
    `test_loss` = `reconstruction` + `kl`, all in nats/dim, a dimension being a channel of a pixel, with the mean of
    `bound_samples` latent vectors; `importance_weighted_loss` is the tighter bound from the same vectors (Burda et
    al. 2016), which for one of them is an ELBO too. Under the Gaussian likelihood these bound the negative log
    density of intensities in [0, 1], which can be below 0, and `bits_per_dim` bounds the code length of the 8-bit
    image, by the same Gaussian's mass at each of the 256 grey levels. The Bernoulli one is no density of grey
    images: its `test_loss`, and `bits_per_dim` = `test_loss` / ln 2, bound the mean code length of the
    black-and-white images that stochastic binarisation makes of them.
    """

    model: VAEConfig
    sampling: Sample
    shape: tuple[int, int, int]
    features: Features = dataclasses.field(compare=False, repr=False)

    @property
    def spec(self) -> Spec:
        return {"image": (self.shape, "uint8"), "label": ((), "int32")}

    @property
    def items(self) -> tuple[str, int]:
        return "images", 1

    @property
    def units(self) -> Mapping[str, str]:
        grey = self.model.likelihood == "gaussian"
        return {
            "test_loss": "nats/dim",
            "reconstruction": "nats/dim",
            "kl": "nats/dim",
            "importance_weighted_loss": "nats/dim",
            "bits_per_dim": "bits/dim" if grey else "bits/dim of binarised images",
            **images.UNITS,
        }

    def init(self, rngs: nnx.Rngs) -> VAE:
        return VAE(self.model, self.shape, rngs)

    def _log_likelihood(self, model: Any, logits_BHWC: jax.Array, x_BHWC: jax.Array) -> jax.Array:
        if self.model.likelihood == "bernoulli":
            return likelihood.bernoulli(logits_BHWC, x_BHWC)
        return likelihood.gaussian(logits_BHWC, x_BHWC, model.scale)

    def loss(
        self, model: Any, batch: Batch, key: jax.Array, progress: jax.Array
    ) -> tuple[jax.Array, jax.Array, dict]:
        """(negative beta-ELBO in nats summed over the images, images, its two terms per image)."""
        x = images.to_float(batch["image"])
        mean_BZ, log_variance_BZ = model.encode(x)
        noise_BZ = jax.random.normal(key, mean_BZ.shape, out_sharding=placed("data", None))
        logits = model.decode(mean_BZ + jnp.exp(0.5 * log_variance_BZ) * noise_BZ)
        reconstruction = -self._log_likelihood(model, logits, x).sum()
        kl = likelihood.kl_to_prior(mean_BZ, log_variance_BZ).sum()
        rise = self.model.kl_warmup
        beta = self.model.beta * (jnp.minimum(progress / rise, 1.0) if rise else 1.0)
        rows = jnp.float32(len(x))
        return reconstruction + beta * kl, rows, {"reconstruction": reconstruction / rows, "kl": kl / rows}

    def evaluate(self, model: Any, batch: Batch, row_weight_B: jax.Array, keys_B: jax.Array) -> dict:
        """Bounds and their terms in nats, by weight in dimensions."""
        x = images.to_float(batch["image"])
        mean_BZ, log_variance_BZ = model.encode(x)
        kl_B = likelihood.kl_to_prior(mean_BZ, log_variance_BZ)
        grey, count = self.model.likelihood == "gaussian", self.model.bound_samples

        def add(sums: tuple[jax.Array, ...], number: jax.Array) -> tuple[tuple[jax.Array, ...], None]:
            fit_B, code_B, joint_B = sums
            noise_BZ = _normals(jax.vmap(jax.random.fold_in, (0, None))(keys_B, number), mean_BZ.shape[1])
            z_BZ = mean_BZ + jnp.exp(0.5 * log_variance_BZ) * noise_BZ
            logits = model.decode(z_BZ)
            log_p_B = self._log_likelihood(model, logits, x)
            # log p(z) - log q(z | x), whose normalising constants cancel
            ratio_B = 0.5 * jnp.sum(noise_BZ * noise_BZ + log_variance_BZ - z_BZ * z_BZ, -1)
            exact_B = likelihood.grey_levels(logits, x, model.scale) if grey else log_p_B
            return (fit_B + log_p_B, code_B + exact_B, jnp.logaddexp(joint_B, log_p_B + ratio_B)), None

        zero_B = jnp.zeros_like(kl_B)
        (fit_B, code_B, joint_B), _ = jax.lax.scan(add, (zero_B, zero_B, zero_B - jnp.inf), jnp.arange(count))
        weight_B = row_weight_B.astype(jnp.float32)
        dims = weight_B.sum() * math.prod(self.shape)

        def mean(nats_B: jax.Array) -> tuple[jax.Array, jax.Array]:
            # rows of weight 0 may hold anything
            return jnp.sum(jnp.where(weight_B > 0, nats_B * weight_B, 0.0)), dims

        return {
            "test_loss": mean(kl_B - fit_B / count),
            "reconstruction": mean(-fit_B / count),
            "kl": mean(kl_B),
            "importance_weighted_loss": mean(math.log(count) - joint_B),
            "code_length": mean(kl_B - code_B / count),
        }

    def derive(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The bounds in nats per dimension, and the code length in bits."""
        kept = {name: value for name, value in metrics.items() if name != "code_length"}
        return kept | {"bits_per_dim": metrics["code_length"] / math.log(2)}

    def sample(self, model: Any, keys_B: jax.Array, rows_B: Batch) -> Batch:
        """One image a key, from the prior."""
        keys_2B = jax.vmap(jax.random.split, out_axes=1)(keys_B)
        mean = jax.nn.sigmoid(model.decode(_normals(keys_2B[0], self.model.latent)))
        if self.sampling.draw == "full":
            if self.model.likelihood == "bernoulli":
                lit = jax.vmap(lambda key: jax.random.uniform(key, self.shape))(keys_2B[1]) < mean
                mean = jnp.where(jnp.isnan(mean), mean, lit)
            else:
                mean += model.scale * jax.vmap(lambda key: jax.random.normal(key, self.shape))(keys_2B[1])
        return {"image": images.to_levels(mean), "label": jnp.full_like(rows_B["label"], -1)}

    def measure(self, model: Any, samples: Rows, real: Rows, test: Rows) -> dict[str, float]:
        """What the families of images share: distances, precision and recall, class shares, copies."""
        return images.measure(self.features, samples, real, test)

    def show(self, model: Any, samples: Row, real: Row, key: jax.Array) -> dict[str, Any]:
        """Images from the same latent vectors in every generation, reconstructions, and shares of classes."""
        ways = jax.sharding.get_abstract_mesh().shape.get("data", 1)
        originals = real["image"][:PAIRS]
        filled = np.resize(originals, (-(-len(originals) // ways) * ways, *self.shape))
        drawn, again = _pictures(self, model, key, -(-SAMPLES // ways) * ways, filled)
        pairs = np.stack([originals, np.asarray(again)[: len(originals)]], 1).reshape(-1, *self.shape)
        grids = {
            "Samples (same latent vectors)": np.asarray(drawn)[:SAMPLES],
            "Real images, each with its reconstruction on the right": pairs,
        }
        return {
            "pictures": [
                {"title": title, "png": images.grid_png(grid, COLUMNS), "pixelated": True}
                for title, grid in grids.items()
            ],
            "shares": images.shares(self.features, samples, real),
        }


def _normals(keys_B: jax.Array, size: int) -> jax.Array:
    """A standard normal vector of each key [B, size]."""
    return jax.vmap(lambda key: jax.random.normal(key, (size,)))(keys_B)


@partial(jax.jit, static_argnums=(0, 3))
def _pictures(
    family: VAEFamily, model: Any, key: jax.Array, count: int, originals: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """`count` means of images from the prior, and those of the originals' reconstructions, on every device."""
    prior_NZ = reshard(jax.random.normal(key, (count, family.model.latent)), "data")
    drawn = jax.nn.sigmoid(model.decode(prior_NZ))
    again = jax.nn.sigmoid(model.decode(model.encode(images.to_float(reshard(originals, "data")))[0]))
    return reshard(images.to_levels(drawn)), reshard(images.to_levels(again))


def build(model: VAEConfig, data: Data, sample: Sample, dataset: ImageDataset) -> VAEFamily:
    """The family for these rows. Raises `BadInput` where the network does not fit the images or the mesh."""
    height, width, channels = dataset.spec["image"][0]
    shape = (height, width, channels)
    parts = jax.sharding.get_abstract_mesh().shape.get("model", 1)
    if lines := misfits(model, shape, parts):
        raise BadInput("; ".join(lines))
    return VAEFamily(model, sample, shape, dataset.features)
