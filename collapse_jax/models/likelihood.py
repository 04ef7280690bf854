"""Likelihoods of images x in [0, 1] given the logits of their mean, per image and in nats.

Bernoulli: sum of x log m + (1 - x) log(1 - m) with m = sigmoid(logits). Over grey x this is no normalised
density; it is the mean log-likelihood of the images that stochastic binarisation makes of x, each channel of a
pixel on with probability x (Salakhutdinov and Murray 2008), so its negative ELBO bounds their code length.

Gaussian: a density over real vectors in the unit where black is 0 and white is 1. `grey_levels` turns the same
Gaussian into probabilities of the 256 grey levels, which sum to one (Ho et al. 2020, equation 13).
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr


def _per_image(terms_BHWC: jax.Array) -> jax.Array:
    return jnp.sum(terms_BHWC, (1, 2, 3))


def bernoulli(logits_BHWC: jax.Array, x_BHWC: jax.Array) -> jax.Array:
    """Log-likelihood [B] of intensities."""
    return _per_image(x_BHWC * logits_BHWC - jax.nn.softplus(logits_BHWC))


def gaussian(logits_BHWC: jax.Array, x_BHWC: jax.Array, scale: jax.Array) -> jax.Array:
    """Log-density [B]; scale []: standard deviation of every pixel."""
    z = (x_BHWC - jax.nn.sigmoid(logits_BHWC)) / scale
    return _per_image(-0.5 * (z * z + jnp.log(2 * jnp.pi)) - jnp.log(scale))


def grey_levels(logits_BHWC: jax.Array, x_BHWC: jax.Array, scale: jax.Array) -> jax.Array:
    """Log-probability [B] of the grey levels 255 x: the Gaussian's mass within half a level of each.

    Black takes all below, white all above.
    """
    away, half = x_BHWC - jax.nn.sigmoid(logits_BHWC), 0.5 / 255
    low = jnp.where(x_BHWC * 255 < 0.5, -jnp.inf, (away - half) / scale)
    high = jnp.where(x_BHWC * 255 > 254.5, jnp.inf, (away + half) / scale)
    # both in the lower tail, where log_ndtr is exact
    a, b = jnp.where(away > 0, -high, low), jnp.where(away > 0, -low, high)
    upper = log_ndtr(b)
    return _per_image(upper + jnp.log(-jnp.expm1(log_ndtr(a) - upper)))


def kl_to_prior(mean_BZ: jax.Array, log_variance_BZ: jax.Array) -> jax.Array:
    """KL divergence [B] of N(mean, variance) from N(0, 1), summed over the latent vector."""
    return 0.5 * jnp.sum(jnp.square(mean_BZ) + jnp.exp(log_variance_BZ) - 1 - log_variance_BZ, -1)
