"""Building blocks of the networks: declared weights, contractions, norms, rotary embedding, embeddings.

Every weight is declared in one line - shape, PartitionSpec over ("data", "model"), initialiser - and kept
in float32; a layer casts it to the dtype of its input. Specs take effect on the mesh set by
`collapse_jax.mesh.make`; without a mesh everything runs on one device and they are ignored.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers
from jax.sharding import PartitionSpec as P

from collapse_jax.mesh import weight_axes

Initializer = Callable[..., jax.Array]

normal = initializers.normal
zeros = initializers.zeros
ones = initializers.ones


def placed(*axes: str | None) -> P | None:
    """The PartitionSpec of these axes, or None where no mesh is set."""
    return None if jax.sharding.get_abstract_mesh().empty else P(*axes)


def weight(
    rngs: nnx.Rngs, shape: tuple[int, ...], axes: tuple[str | None, ...], init: Initializer, stack: int = 0
) -> nnx.Param[jax.Array]:
    """A float32 parameter split over the mesh axes named per dimension; `stack` > 0 puts layers in front."""
    axes = weight_axes(shape, axes)
    if stack:
        shape, axes = (stack, *shape), (None, *axes)
    return nnx.Param(init(rngs.params(), shape, jnp.float32, out_sharding=placed(*axes)))


def contract(x_ND: jax.Array, weight_DM: jax.Array, axis: str | None) -> jax.Array:
    """x @ weight in the dtype of x, its columns on the mesh axis `axis`.

    The operands are matrices on purpose: a contraction over rows and positions at once, as the gradient of a
    batched product needs, would be transposed in memory first on CPUs.
    """
    return jnp.matmul(x_ND, weight_DM.astype(x_ND.dtype), out_sharding=placed("data", axis))


class RMSNorm(nnx.Module):
    """x / rms(x) * scale over the last axis, statistics in float32 (Zhang and Sennrich 2019)."""

    def __init__(self, rngs: nnx.Rngs, width: int, eps: float = 1e-5, stack: int = 0):
        self.scale = weight(rngs, (width,), (None,), ones, stack)
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + self.eps)
        return (wide * self.scale[...]).astype(x.dtype)


class LayerNorm(nnx.Module):
    """(x - mean) / std * scale + bias over the last axis, statistics in float32 (Ba et al. 2016)."""

    def __init__(self, rngs: nnx.Rngs, width: int, eps: float = 1e-5, stack: int = 0):
        self.scale = weight(rngs, (width,), (None,), ones, stack)
        self.bias = weight(rngs, (width,), (None,), zeros, stack)
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        centred = wide - jnp.mean(wide, -1, keepdims=True)
        normed = centred * jax.lax.rsqrt(jnp.mean(centred * centred, -1, keepdims=True) + self.eps)
        return (normed * self.scale[...] + self.bias[...]).astype(x.dtype)


@jax.custom_vjp
def relu(x: jax.Array) -> jax.Array:
    """max(x, 0), whose gradient keeps only the result, and the sharding of an axis that is mapped over."""
    return x * (x > 0).astype(x.dtype)


def _relu_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    kept = relu(x)
    return kept, kept


def _relu_backward(kept: jax.Array, g: jax.Array) -> tuple[jax.Array]:
    return (g * (kept > 0).astype(g.dtype),)


relu.defvjp(_relu_forward, _relu_backward)


def embed(table_VD: jax.Array, ids: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """Rows of the table, [..., D]; the table may be split over its vocabulary, rows stay on "data"."""
    where = placed("data", *[None] * ids.ndim)
    if where is not None:  # columns split over "data" are gathered: the table is smaller than the rows
        table_VD = jax.sharding.reshard(table_VD, P("model", None))
    return table_VD.at[ids].get(out_sharding=where, mode="clip").astype(dtype)


def rotary(positions_T: jax.Array, size: int, theta: float) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines [T, size / 2] of the rotary embedding at these positions (Su et al. 2021)."""
    frequency = theta ** -(jnp.arange(0, size, 2, dtype=jnp.float32) / size)
    angle = positions_T.astype(jnp.float32)[:, None] * frequency
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x_BTxH: jax.Array, cos_TF: jax.Array, sin_TF: jax.Array) -> jax.Array:
    """Rotate the head vectors of x [B, T, ..., H] by position; dimension i pairs with i + H / 2."""
    shape = (cos_TF.shape[0], *[1] * (x_BTxH.ndim - 3), cos_TF.shape[1])
    cos, sin = (z.reshape(shape).astype(x_BTxH.dtype) for z in (cos_TF, sin_TF))
    first, second = jnp.split(x_BTxH, 2, -1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)
