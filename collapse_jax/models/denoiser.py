"""A diffusion transformer for small images: patches, adaLN-zero conditioning on time and class.

Peebles and Xie 2023 (DiT): the image is cut into patches that attend to each other freely; every block is
scaled, shifted and gated by a function of the time and the class that begins as the identity. The blocks are
one module whose weights carry a leading layer axis; the forward pass scans over it. Heads and hidden units
are split over the mesh axis "model", rows over "data".
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn import initializers

from collapse_jax.config import choice, number
from collapse_jax.models import layers
from collapse_jax.models.layers import contract, normal, placed, weight, zeros
from collapse_jax.models.transformer import rematted


@dataclasses.dataclass(frozen=True)
class DenoiserConfig:
    """What the network is (and how it is computed, in the last two fields).

    patch: side of the square patches in pixels. conditional: whether it is told the class of a row.
    label_dropout: share of training rows whose class is hidden, which trains the network without class
        beside the one with it, as classifier-free guidance needs (Ho and Salimans 2022).
    """

    patch: int = number(2, 1, 64)
    layers: int = number(4, 1, 1000)
    width: int = number(128, 4, 65536)
    heads: int = number(4, 1, 1024)
    mlp: int = number(0, 0, 1 << 20)  # hidden units; 0: four times the width
    conditional: bool = True
    label_dropout: float = number(0.1, 0.0, 1.0)
    dtype: str = choice("float32", ("float32", "bfloat16"))  # of the computation; weights are float32
    remat: str = choice("none", ("none", "dots", "full"), identity=False)

    @property
    def hidden(self) -> int:
        return self.mlp or 4 * self.width

    def problems(self) -> list[str]:
        """One line for every combination of settings that cannot work."""
        lines = []
        if self.width % self.heads:
            lines.append(f"heads={self.heads} must divide width={self.width}")
        if self.width % 4:
            lines.append(f"width={self.width} must be divisible by 4, for positions in two dimensions")
        return lines


def standardised(x: jax.Array, eps: float = 1e-6) -> jax.Array:
    """(x - mean) / std over the last axis, statistics in float32; scale and shift come from the conditions."""
    wide = x.astype(jnp.float32)
    centred = wide - jnp.mean(wide, -1, keepdims=True)
    normed = centred * jax.lax.rsqrt(jnp.mean(centred * centred, -1, keepdims=True) + eps)
    return normed.astype(x.dtype)


def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Every position sees every other: q, k, v [B, T, K, H] -> [B, T, K, H]; softmax in float32."""
    scores = jnp.einsum("btkh,bskh->bkts", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    return jnp.einsum("bkts,bskh->btkh", jax.nn.softmax(scores, -1).astype(v.dtype), v)


def sinusoids(places: Any, size: int, longest: float) -> jax.Array:
    """Cosines and sines [..., size] of places [...], at wavelengths from 2 pi to 2 pi `longest`."""
    frequencies = longest ** -(jnp.arange(size // 2, dtype=jnp.float32) / (size // 2))
    angles = jnp.asarray(places, jnp.float32)[..., None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)


class Linear(nnx.Module):
    """x @ weight + bias on the mesh axes `axes` of inputs and outputs; `stack` > 0 puts layers in front."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        shape: tuple[int, int],
        axes: tuple[str | None, str | None] = (None, None),
        init: layers.Initializer | None = None,
        stack: int = 0,
    ):
        init = init or initializers.xavier_uniform(batch_axis=(0,) if stack else ())
        self.weight = weight(rngs, shape, axes, init, stack)
        self.bias = weight(rngs, shape[1:], axes[1:], zeros, stack)
        self.axis = axes[1]

    def __call__(self, x_ND: jax.Array) -> jax.Array:
        return contract(x_ND, self.weight[...], self.axis) + self.bias[...].astype(x_ND.dtype)


class Block(nnx.Module):
    """All layers' blocks at once: every weight has a leading layer axis, a call takes one layer's slice."""

    def __init__(self, rngs: nnx.Rngs, config: DenoiserConfig):
        c, n, split, merge = config, config.layers, (None, "model"), ("model", None)
        self.conditions = Linear(rngs, (c.width, 6 * c.width), init=zeros, stack=n)
        self.qkv = Linear(rngs, (c.width, 3 * c.width), split, stack=n)
        self.out = Linear(rngs, (c.width, c.width), merge, stack=n)
        self.up = Linear(rngs, (c.width, c.hidden), split, stack=n)
        self.down = Linear(rngs, (c.hidden, c.width), merge, stack=n)
        self.heads = c.heads

    def __call__(self, x_BTD: jax.Array, condition_BD: jax.Array) -> jax.Array:
        parts = jnp.split(self.conditions(condition_BD)[:, None], 6, -1)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = parts
        x_BTD = x_BTD + gate_1 * self._attention(standardised(x_BTD) * (1 + scale_1) + shift_1)
        return x_BTD + gate_2 * self._mlp(standardised(x_BTD) * (1 + scale_2) + shift_2)

    def _attention(self, x_BTD: jax.Array) -> jax.Array:
        rows, length, width = x_BTD.shape
        # one matrix, grouped by head so that a split over "model" keeps a head's parts together
        shape, where = (rows, length, self.heads, 3, -1), ("data", None, "model", None, None)
        fused = jnp.reshape(self.qkv(flat(x_BTD)), shape, out_sharding=placed(*where))
        mixed = attend(fused[..., 0, :], fused[..., 1, :], fused[..., 2, :])
        mixed_ND = jnp.reshape(mixed, (-1, width), out_sharding=placed("data", "model"))
        return rowwise(self.out(mixed_ND), rows)

    def _mlp(self, x_BTD: jax.Array) -> jax.Array:
        return rowwise(self.down(jax.nn.gelu(self.up(flat(x_BTD)), approximate=True)), len(x_BTD))


def flat(x_BTD: jax.Array) -> jax.Array:
    """[B, T, D] -> [B T, D]."""
    return jnp.reshape(x_BTD, (-1, x_BTD.shape[-1]), out_sharding=placed("data", None))


def rowwise(x_ND: jax.Array, rows: int) -> jax.Array:
    """[B T, D] -> [B, T, D]."""
    shape = (rows, len(x_ND) // rows, x_ND.shape[-1])
    return jnp.reshape(x_ND, shape, out_sharding=placed("data", None, None))


def shaped(x_B: jax.Array, *shape: int) -> jax.Array:
    """[B, ...] -> [B, *shape]."""
    return jnp.reshape(x_B, (len(x_B), *shape), out_sharding=placed("data", *[None] * len(shape)))


class Denoiser(nnx.Module):
    """What noise it sees, from a noisy image, its time and its class; the output begins as 0.

    shape: (height, width, channels), the sides divisible by the patch. classes: 0 where it is not told any;
    a label outside 0..classes-1 stands for "not told".
    """

    def __init__(self, config: DenoiserConfig, shape: tuple[int, int, int], classes: int, rngs: nnx.Rngs):
        c, self.config, self.shape = config, config, shape
        pixels = c.patch**2 * shape[2]
        self.enter = Linear(rngs, (pixels, c.width))
        self.time_1 = Linear(rngs, (TIME_FEATURES, c.width), init=normal(0.02))
        self.time_2 = Linear(rngs, (c.width, c.width), init=normal(0.02))
        self.labels = weight(rngs, (classes + 1, c.width), (None, None), normal(0.02)) if classes else None
        self.blocks = Block(rngs, c)
        self.conditions = Linear(rngs, (c.width, 2 * c.width), init=zeros)
        self.leave = Linear(rngs, (c.width, pixels), init=zeros)

    def __call__(self, x_BHWC: jax.Array, time_B: jax.Array, label_B: jax.Array) -> jax.Array:
        """[B, H, W, C] in float32, for noisy images, times in [0, 1] [B] and labels [B]."""
        c, rows, (height, width, _) = self.config, len(x_BHWC), self.shape
        x = self.enter(flat(patches(x_BHWC, c.patch).astype(c.dtype)))
        x = rowwise(x, rows) + places(height // c.patch, width // c.patch, c.width).astype(c.dtype)
        condition = jax.nn.silu(self.condition(time_B, label_B))
        blocks = rematted(lambda x, block: (block(x, condition), None), c.remat)
        # CPUs copy what a loop hands from the forward to the backward pass
        unroll = c.layers if c.remat == "none" and jax.default_backend() == "cpu" else 1
        x, _ = jax.lax.scan(blocks, x, self.blocks, unroll=unroll)
        shift, scale = jnp.split(self.conditions(condition)[:, None], 2, -1)
        x = self.leave(flat(standardised(x) * (1 + scale) + shift)).astype(jnp.float32)
        return unpatched(rowwise(x, rows), self.shape, c.patch)

    def condition(self, time_B: jax.Array, label_B: jax.Array) -> jax.Array:
        """[B, D], of the time and the class."""
        features = sinusoids(1000 * time_B, TIME_FEATURES, 10_000.0).astype(self.config.dtype)
        condition = self.time_2(jax.nn.silu(self.time_1(features)))
        if self.labels is None:
            return condition
        hidden = self.labels.shape[0] - 1
        told = (label_B >= 0) & (label_B < hidden)
        return condition + layers.embed(self.labels[...], jnp.where(told, label_B, hidden), self.config.dtype)


TIME_FEATURES = 256


def places(rows: int, columns: int, width: int) -> jax.Array:
    """[rows * columns, width]: fixed sinusoids of each patch's column, then of its row."""
    down, right = np.divmod(np.arange(rows * columns), columns)
    return jnp.concatenate([sinusoids(at, width // 2, 10_000.0) for at in (right, down)], -1)


def patches(x_BHWC: jax.Array, patch: int) -> jax.Array:
    """[B, H, W, C] -> [B, patches in reading order, patch * patch * C]."""
    _, height, width, channels = x_BHWC.shape
    x = shaped(x_BHWC, height // patch, patch, width // patch, patch, channels)
    return shaped(jnp.swapaxes(x, 2, 3), height * width // patch**2, patch * patch * channels)


def unpatched(x_BTP: jax.Array, shape: tuple[int, int, int], patch: int) -> jax.Array:
    """The inverse of `patches`."""
    height, width, channels = shape
    x = shaped(x_BTP, height // patch, width // patch, patch, patch, channels)
    return shaped(jnp.swapaxes(x, 2, 3), *shape)
