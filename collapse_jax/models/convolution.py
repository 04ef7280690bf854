"""Convolutions of images NHWC at stride 1 or 2, transposed ones, and group normalisation.

A transposed convolution is the adjoint of a convolution, so three contractions serve both and their
gradients: `_forward`, `_adjoint` and `_kernel_gradient`. Left to automatic differentiation, the gradient of a
transposed convolution is a convolution that XLA runs 10 to 100 times slower on CPUs; so is any kernel gradient
inside a loop unless its operands lie in memory as channels-last images and kernels do.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.custom_batching import custom_vmap
from jax.nn import initializers
from jax.sharding import PartitionSpec as P

from collapse_jax.models.layers import ones, placed, weight, zeros

Axes = tuple[str | None, str | None]  # mesh axes of a kernel's last two dimensions
LAYOUT = ("NHWC", "HWIO", "NHWC")
GROUPS = 8  # of channels, in GroupNorm
TRUNCATED = 0.87962566  # standard deviation of a normal cut at +-2


def laid(x: jax.Array, *axes: str | None) -> jax.Array:
    """x split over these mesh axes, one per dimension, where there is a mesh."""
    where = placed(*axes)
    return x if where is None else jax.reshard(x, where)


def _each_seed(f: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """`f`, called once per member where it is mapped over.

    `jax.vmap` would make one grouped convolution of all, which is slower on CPUs and not defined for operands
    that are split over an explicit mesh.
    """
    single = custom_vmap(f)

    @single.def_vmap
    def mapped(size: int, batched: Any, *operands: jax.Array) -> tuple[jax.Array, bool]:
        def members(*operands: jax.Array) -> jax.Array:
            here = next(z.shape[0] for z, split in zip(operands, batched, strict=True) if split)
            picked = ([z[i] if split else z for z, split in zip(operands, batched, strict=True)]
                      for i in range(here))  # fmt: skip
            return jnp.stack([single(*one) for one in picked])

        # the mesh axis that the members lie on
        over = {jax.typeof(z).sharding.spec[:1] for z, split in zip(operands, batched, strict=True) if split}
        axes = {axis for spec in over for axis in spec} - {None}
        if axes:
            specs = tuple(P(*axes) if split else P() for split in batched)
            members = jax.shard_map(members, in_specs=specs, out_specs=P(*axes), axis_names=axes)
        return members(*operands), True

    return single


@cache
def _forward(stride: int, axes: Axes) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """x [B, sH, sW, I], kernel [k, k, I, O] -> [B, H, W, O]: one pixel of padding on every side."""

    @_each_seed
    def forward(x: jax.Array, kernel: jax.Array) -> jax.Array:
        if kernel.shape[2] == 3:  # colour: with a fourth channel, of zeros, CPUs are more than twice as fast
            x, kernel = (jnp.pad(z, [(0, int(i == at)) for i in range(4)]) for z, at in ((x, 3), (kernel, 2)))
        out = placed("data", None, None, axes[1])
        pad = ((1, 1), (1, 1))
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), pad, dimension_numbers=LAYOUT, out_sharding=out
        )

    return forward


@cache
def _adjoint(stride: int, axes: Axes) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """y [B, H, W, O], kernel [k, k, I, O] -> [B, sH, sW, I]: the transpose of `_forward` as a linear map.

    Every s-th pixel along a side is a convolution with every s-th weight, so nothing is multiplied by the zeros
    that a dilated image would have.
    """

    @_each_seed
    def adjoint(y: jax.Array, kernel: jax.Array) -> jax.Array:
        turned, out = jnp.swapaxes(kernel, 2, 3), placed("data", None, None, axes[0])
        taps = [_taps(kernel.shape[0], stride, at) for at in range(stride)]

        def pixels(row: int, column: int) -> jax.Array:
            part = turned[np.array(taps[row].used)[:, None], np.array(taps[column].used)]
            pad = (taps[row].pad, taps[column].pad)
            return jax.lax.conv_general_dilated(
                y, part, (1, 1), pad, dimension_numbers=LAYOUT, out_sharding=out
            )

        if stride == 1:
            return pixels(0, 0)
        rows, height, width, _ = y.shape
        found = jnp.stack([jnp.stack([pixels(i, j) for j in range(2)], 3) for i in range(2)], 2)
        return found.reshape(rows, 2 * height, 2 * width, -1, out_sharding=out)

    return adjoint


class _Taps(NamedTuple):
    """Weights along a side, in the order of the pixels they meet, and the padding that they need."""

    used: tuple[int, ...]
    pad: tuple[int, int]


def _taps(size: int, stride: int, at: int) -> _Taps:
    """Weights of a side that reach pixels s a + `at`: weight i joins pixel s b + i - 1 to pixel b."""
    used = [i for i in reversed(range(size)) if (at + 1 - i) % stride == 0]
    first, last = ((at + 1 - i) // stride for i in (used[0], used[-1]))
    return _Taps(tuple(used), (-first, last))


@cache
def _kernel_gradient(stride: int, axes: Axes, size: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """x [B, sH, sW, I], y [B, H, W, O] -> [k, k, I, O]: the gradient of sum(y * _forward(x, kernel))."""

    @_each_seed
    def gradient(x: jax.Array, y: jax.Array) -> jax.Array:
        # channels as the batch, rows as the contracted features
        images, kernel = jnp.transpose(x, (3, 1, 2, 0)), jnp.transpose(y, (1, 2, 0, 3))
        pad = ((1, size - 1 - stride),) * 2
        made = jax.lax.conv_general_dilated(
            images, kernel, (1, 1), pad, rhs_dilation=(stride, stride), dimension_numbers=LAYOUT,
            out_sharding=placed(axes[0], None, None, axes[1]),
        )  # fmt: skip
        return jnp.transpose(made, (1, 2, 0, 3))

    return gradient


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(x: jax.Array, kernel: jax.Array, stride: int, axes: Axes) -> jax.Array:
    """x [B, sH, sW, I] with kernel [k, k, I, O] -> [B, H, W, O]; k = 3, or 4 at stride 2. Padded by 1."""
    return _forward(stride, axes)(x, kernel)


def _convolve_forward(x: jax.Array, kernel: jax.Array, stride: int, axes: Axes) -> tuple[jax.Array, Any]:
    return convolve(x, kernel, stride, axes), (x, kernel)


def _convolve_backward(stride: int, axes: Axes, kept: Any, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    return _adjoint(stride, axes)(y, kernel), _kernel_gradient(stride, axes, kernel.shape[0])(x, y)


convolve.defvjp(_convolve_forward, _convolve_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def transposed(y: jax.Array, kernel: jax.Array, stride: int, axes: Axes) -> jax.Array:
    """y [B, H, W, O] with kernel [k, k, I, O] -> [B, sH, sW, I]: the adjoint of `convolve`."""
    return _adjoint(stride, axes)(y, kernel)


def _transposed_forward(y: jax.Array, kernel: jax.Array, stride: int, axes: Axes) -> tuple[jax.Array, Any]:
    return transposed(y, kernel, stride, axes), (y, kernel)


def _transposed_backward(stride: int, axes: Axes, kept: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    y, kernel = kept
    return _forward(stride, axes)(x, kernel), _kernel_gradient(stride, axes, kernel.shape[0])(x, y)


transposed.defvjp(_transposed_forward, _transposed_backward)


class Convolution(nnx.Module):
    """`convolve` with a bias, or `transposed` where `up`; channels lie on the mesh axes `axes` (from, to)."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        channels: tuple[int, int],
        axes: Axes,
        size: int = 3,
        stride: int = 1,
        up: bool = False,
        gain: float = 2.0,
    ):
        # an output of a transposed convolution is reached by 1 in stride^2 of the kernel's weights
        fan_in = channels[0] * size**2 / (stride**2 if up else 1)
        scale, init = gain / fan_in, initializers.truncated_normal
        order = (1, 0) if up else (0, 1)
        self.axes = (axes[order[0]], axes[order[1]])
        shape = (size, size, channels[order[0]], channels[order[1]])
        self.kernel = weight(rngs, shape, (None, None, *self.axes), init((scale**0.5) / TRUNCATED))
        self.bias = weight(rngs, (channels[1],), (axes[1],), zeros)
        self.stride, self.up = stride, up

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, from] -> [B, H / stride, W / stride, to], or times the stride where `up`."""
        kernel = laid(self.kernel[...].astype(x.dtype), None, None, *self.axes)
        apply: Any = transposed if self.up else convolve
        return apply(x, kernel, self.stride, self.axes) + self.bias[...].astype(x.dtype)


class GroupNorm(nnx.Module):
    """Normalises groups of channels over space, statistics in float32 (Wu and He 2018)."""

    def __init__(self, rngs: nnx.Rngs, channels: int, axis: str | None, eps: float = 1e-5):
        self.scale = weight(rngs, (channels,), (axis,), ones)
        self.bias = weight(rngs, (channels,), (axis,), zeros)
        self.axis, self.eps = axis, eps

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        centred = wide - self._grouped(jnp.mean(wide, (1, 2)))
        spread = self._grouped(jnp.mean(centred * centred, (1, 2)))
        normed = centred * jax.lax.rsqrt(spread + self.eps)
        return (normed * self.scale[...] + self.bias[...]).astype(x.dtype)

    def _grouped(self, means_BC: jax.Array) -> jax.Array:
        """Means over each group, for every channel of it [B, 1, 1, C]."""
        rows, channels = means_BC.shape
        each = (rows, GROUPS, channels // GROUPS)
        grouped = laid(means_BC, "data", None).reshape(each).mean(-1, keepdims=True)
        spread = jnp.broadcast_to(grouped, each).reshape(rows, channels)[:, None, None]
        return laid(spread, "data", None, None, self.axis)
