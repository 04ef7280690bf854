"""A convolutional variational autoencoder of images (Kingma and Welling 2014), plain or residual.

The encoder halves the image once per stage and the decoder mirrors it. Channels lie on the mesh axis "model" at
every other level, so that a layer either makes split channels or sums over them, and only sums travel.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers

from collapse_jax.config import choice, number
from collapse_jax.models.convolution import GROUPS, Axes, Convolution, GroupNorm, laid
from collapse_jax.models.layers import placed, relu, weight, zeros

Shape = tuple[int, int, int]  # height, width, channels


@dataclasses.dataclass(frozen=True)
class VAEConfig:
    """The network, the likelihood of an image given its latent vector, and the objective.

    channels: of each stage, the largest image first; a stage halves height and width.
    kernel: side of the kernels that change the size, 3 or 4.
    blocks: residual blocks at every size but the full one (0: a plain network).
    norm: "group" normalises groups of channels after every convolution but the last.
    output: how the decoder ends: with a transposed convolution to the image ("transposed"), or one to
        `channels[0]` and a 3 x 3 convolution ("convolution").
    likelihood: of an image whose mean is m: "bernoulli", every channel of a pixel on with probability m, or
        "gaussian" around m with standard deviation `scale` (white is 1), one number, learned from there on
        where `learn_scale` (Rybkin et al. 2021).
    beta: weight of the KL term in the training loss; kl_warmup: share of the steps over which it rises from 0
        (Higgins et al. 2017; Bowman et al. 2016).
    bound_samples: latent vectors drawn per image where it is scored.
    """

    channels: tuple = (32, 64)
    kernel: int = number(4, 3, 4)
    blocks: int = number(0, 0, 64)
    norm: str = choice("none", ("none", "group"))
    output: str = choice("convolution", ("convolution", "transposed"))
    latent: int = number(16, 1, 65536)
    likelihood: str = choice("bernoulli", ("bernoulli", "gaussian"))
    scale: float = number(0.1, 1e-4, 100.0)
    learn_scale: bool = True
    beta: float = number(1.0, 0.0, 1e6)
    kl_warmup: float = number(0.0, 0.0, 1.0)
    bound_samples: int = number(8, 1, 100_000)
    dtype: str = choice("float32", ("float32", "bfloat16"))  # of the network; weights and sums are float32

    def problems(self) -> list[str]:
        """One line for every combination of settings that cannot work."""
        if not self.channels or not all(type(c) is int and 0 < c <= 65536 for c in self.channels):
            return [f"channels={self.channels!r} must be whole numbers above 0, one a stage, e.g. (32, 64)"]
        if self.norm == "group" and any(c % GROUPS for c in self.channels):
            return [f"channels={self.channels!r} must be multiples of {GROUPS} for norm='group'"]
        return []


def axis_of(level: int) -> str | None:
    """Mesh axis of the channels after `level` stages; an image is whole."""
    return "model" if level % 2 else None


def _norm(config: VAEConfig, rngs: nnx.Rngs, channels: int, axis: str | None) -> GroupNorm | None:
    return GroupNorm(rngs, channels, axis) if config.norm == "group" else None


def _normed(x: jax.Array, norm: GroupNorm | None) -> jax.Array:
    return x if norm is None else norm(x)


class Residual(nnx.Module):
    """relu(x + two convolutions of x) (He et al. 2016)."""

    def __init__(self, config: VAEConfig, rngs: nnx.Rngs, level: int):
        channels, axis, inner = config.channels[level - 1], axis_of(level), axis_of(level + 1)
        both = (channels, channels)
        self.first = Convolution(rngs, both, (axis, inner))
        self.first_norm = _norm(config, rngs, channels, inner)
        # small at first, so that many blocks begin as almost nothing without normalisation too
        self.second = Convolution(rngs, both, (inner, axis), gain=0.02)
        self.second_norm = _norm(config, rngs, channels, axis)

    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = relu(_normed(self.first(x), self.first_norm))
        return relu(x + _normed(self.second(hidden), self.second_norm))


class Change(nnx.Module):
    """A convolution to another level and its nonlinearity."""

    def __init__(self, config: VAEConfig, rngs: nnx.Rngs, channels: tuple[int, int], axes: Axes, up: bool):
        self.convolution = Convolution(rngs, channels, axes, config.kernel, 2, up)
        self.norm = _norm(config, rngs, channels[1], axes[1])

    def __call__(self, x: jax.Array) -> jax.Array:
        return relu(_normed(self.convolution(x), self.norm))


class VAE(nnx.Module):
    """`encode` gives q(z | x), `decode` the logits of the mean image; float32 at both ends."""

    def __init__(self, config: VAEConfig, shape: Shape, rngs: nnx.Rngs):
        c, self.config = config, config
        levels = range(1, len(c.channels) + 1)
        widths = (shape[2], *c.channels)

        down: list[nnx.Module] = []
        for i in levels:
            down += [Change(c, rngs, (widths[i - 1], widths[i]), (axis_of(i - 1), axis_of(i)), up=False)]
            down += [Residual(c, rngs, i) for _ in range(c.blocks)]
        self.down = nnx.List(down)

        inner, axis = (shape[0] >> len(levels), shape[1] >> len(levels), widths[-1]), axis_of(len(levels))
        normal = initializers.normal
        self.to_latent = weight(
            rngs, (*inner, 2 * c.latent), (None, None, axis, None), normal(math.prod(inner) ** -0.5)
        )
        self.to_latent_bias = weight(rngs, (2 * c.latent,), (None,), zeros)
        self.from_latent = weight(rngs, (c.latent, *inner), (None, None, None, axis), normal(c.latent**-0.5))
        self.from_latent_bias = weight(rngs, inner, (None, None, axis), zeros)

        up: list[nnx.Module] = []
        for i in reversed(levels):
            up += [Residual(c, rngs, i) for _ in range(c.blocks)]
            if i > 1 or c.output == "convolution":
                narrow = widths[max(i - 1, 1)]
                up += [Change(c, rngs, (widths[i], narrow), (axis_of(i), axis_of(i - 1)), up=True)]
        self.up = nnx.List(up)
        ends = (c.channels[0], shape[2])
        if c.output == "convolution":
            self.out = Convolution(rngs, ends, (axis_of(0), None), up=True, gain=1.0)
        else:
            self.out = Convolution(rngs, ends, (axis_of(1), None), c.kernel, 2, up=True, gain=1.0)
        learned = c.likelihood == "gaussian" and c.learn_scale
        start = initializers.constant(math.log(c.scale))
        self.log_scale = weight(rngs, (1,), (None,), start) if learned else None

    def encode(self, x_BHWC: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and log-variance [B, Z] of q(z | x), for x in [0, 1]."""
        h = x_BHWC.astype(self.config.dtype)
        for layer in self.down:
            h = layer(h)
        to = laid(self.to_latent[...].astype(h.dtype), None, None, axis_of(len(self.config.channels)), None)
        both_BZ = jnp.einsum(
            "bhwc,hwcz->bz", h, to, preferred_element_type=jnp.float32, out_sharding=placed("data", None)
        )
        mean_BZ, log_variance_BZ = jnp.split(both_BZ + self.to_latent_bias[...], 2, -1)
        return mean_BZ, log_variance_BZ

    def decode(self, z_BZ: jax.Array) -> jax.Array:
        """Logits [B, H, W, C] of the mean image."""
        z, axis = z_BZ.astype(self.config.dtype), axis_of(len(self.config.channels))
        start = laid(self.from_latent[...].astype(z.dtype), None, None, None, axis)
        h = jnp.einsum("bz,zhwc->bhwc", z, start, out_sharding=placed("data", None, None, axis))
        h = h + laid(self.from_latent_bias[...].astype(h.dtype), None, None, axis)
        for layer in self.up:
            h = layer(h)
        return self.out(h).astype(jnp.float32)

    @property
    def scale(self) -> jax.Array:
        """Standard deviation [] of the Gaussian likelihood."""
        return jnp.float32(self.config.scale) if self.log_scale is None else jnp.exp(self.log_scale[...][0])


def misfits(config: VAEConfig, shape: Shape, parts: int) -> list[str]:
    """One line for everything that keeps the network from images of this shape, or from a mesh of `parts`."""
    step, lines = 1 << len(config.channels), []
    if shape[0] % step or shape[1] % step:
        lines.append(
            f"the {len(config.channels)} stages of model.channels need sides that {step} divides and the images "
            f"are {shape[0]} x {shape[1]}; set data.size or take fewer stages"
        )
    if any(c % parts for c in config.channels):
        lines.append(f"mesh.model={parts} does not divide model.channels={config.channels}; choose a divisor")
    return lines
