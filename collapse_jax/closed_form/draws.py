"""Random numbers of the closed forms: f32 draws widened to f64, and exact sampling of sufficient statistics.

Arithmetic of the closed forms is f64 (variances fall below 1e-30 within a thousand generations). Normals are
drawn at f32 resolution and widened, which is three times faster and moves a variance by less than 1e-6;
uniforms that choose among probabilities carry 53 bits. Only threefry keys are used, so that the numbers of a
seed depend on neither the chunk nor the devices; `words` stretches such a key by a cheaper generator, for what
is drawn in bulk.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.data.shuffle import GOLDEN, mix


def normal(key: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
    """Standard normals, f32 resolution, float dtype of the context."""
    return _normal(_centred(words(key, math.prod(shape)))).reshape(shape).astype(float)


def uniform(key: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
    """Uniforms in [0, 1) at the full resolution of the context's float."""
    return jax.random.uniform(key, shape, float)


def words(key: jax.Array, rows: int) -> jax.Array:
    """Random whole numbers below 2^32, int64 [rows].

    SplitMix64 from the 64 bits of the key on: the lower halves of its numbers, then the upper ones. A tenth of
    the time of `jax.random.bits`.
    """
    high, low = jax.random.key_data(key).astype(jnp.uint64)
    state = ((high << 32) | low) + jnp.arange(-(-rows // 2), dtype=jnp.uint64) * GOLDEN
    z: Any = mix(state)  # pyright: ignore[reportArgumentType]
    return jnp.concatenate([z & (2**32 - 1), z >> 32])[:rows].astype(jnp.int64)


def _normal(centred: jax.Array) -> jax.Array:
    return np.float32(np.sqrt(2)) * jax.lax.erf_inv(centred)


def _centred(words: jax.Array) -> jax.Array:
    """f32 in (-1, 1), symmetric: odd multiples of 2^-23, from whole numbers below 2^32."""
    return ((words >> 9) * 2 + (1 - 2**23)).astype(jnp.float32) * np.float32(2**-23)


def gamma(key: jax.Array, shape_parameter: jax.Array) -> jax.Array:
    """Gamma(a, 1) for a vector of a >= 1 (Marsaglia & Tsang 2000), all entries together; 0 below 1/3.

    `jax.random.gamma` walks through its entries one by one on the CPU; here rejected entries are drawn again
    until none is left, which takes about two rounds. The test is in f32: written in log1p it is off by 1e-7
    sqrt(a), and XLA has fast f32 logarithms only.
    """
    d = jnp.asarray(shape_parameter, float) - 1 / 3
    c = 1 / (3 * jnp.sqrt(jnp.where(d > 0, d, 1.0)))
    d32, c32 = d.astype(jnp.float32), c.astype(jnp.float32)

    def once(state):
        turn, value, done = state
        key_now = jax.random.fold_in(key, turn)
        u = _centred(words(key_now, 2 * len(d)))
        x = _normal(u[: len(d)])
        y = c32 * x
        inside = y > -1
        log1p = jnp.log1p(jnp.where(inside, y, 0))
        good = inside & (
            jnp.log((u[len(d) :] + 1) / 2) < 3 * d32 * (log1p - y * (1 - y * (np.float32(0.5) - y / 3)))
        )
        return turn + 1, jnp.where(~done & good, d * (1 + c * x.astype(float)) ** 3, value), done | good

    return jax.lax.while_loop(lambda state: ~jnp.all(state[2]), once, (0, jnp.zeros_like(d), d <= 0))[1]


def wishart_factor(key: jax.Array, dim: int, freedom: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Lower-triangular A with A A^T ~ Wishart(I, freedom), [dim, dim] (Bartlett 1933), and `dim` normals.

    With fewer degrees of freedom than dimensions the last columns are zero and A A^T has rank `freedom`. The
    independent normals come with it because one block of random bits is cheaper than two.
    """
    of_normals, of_gamma = jax.random.split(key)
    left = jnp.asarray(freedom, float) - jnp.arange(dim)
    rows, columns = jnp.tril_indices(dim, -1)
    z = normal(of_normals, (2 * dim + len(rows),))
    below = jnp.zeros((dim, dim)).at[rows, columns].set(z[2 * dim :])
    # Chi-square with k degrees of freedom: a gamma for k >= 2, a squared normal for k = 1.
    square = jnp.where(
        left >= 2, 2 * gamma(of_gamma, jnp.where(left >= 2, left / 2, 0.0)), z[dim : 2 * dim] ** 2
    )
    return jnp.where(left >= 1, below + jnp.diag(jnp.sqrt(square)), 0.0), z[:dim]


def cholesky(matrix: jax.Array) -> jax.Array:
    """Lower-triangular factor of a positive [d, d] matrix that may be singular or zero.

    Four roundings a dimension are added to the diagonal, relative to itself; without them a matrix of
    lower rank has no numerical factor.
    """
    diagonal = jnp.diagonal(matrix) * (4 * len(matrix) * jnp.finfo(float).eps) + 1e-300
    return jnp.linalg.cholesky(matrix + jnp.diag(diagonal), symmetrize_input=False)
