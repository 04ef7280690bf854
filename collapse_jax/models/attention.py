"""Causal self-attention for training: one table of implementations, chosen by device, dtype and shape.

Queries come grouped by the key head that they share: q [B, T, K, G, H], k and v [B, T, K, H], result
[B, T, K, G, H], with K key heads, G queries per key head (grouped-query attention, Ainslie et al. 2023;
G = 1 is ordinary multi-head attention) and head size H. Position t sees positions 0..t, scores are scaled
by 1/sqrt(H). Rows may be split over "data" and key heads over "model".
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

HIDDEN = -1e30


def reference(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """The definition: every score, a triangular mask, softmax in float32."""
    length = q.shape[1]
    scores = jnp.einsum("btkgh,bskh->bkgts", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    seen = jnp.arange(length)[:, None] >= jnp.arange(length)
    shares = jax.nn.softmax(jnp.where(seen, scores, HIDDEN), -1)
    return jnp.einsum("bkgts,bskh->btkgh", shares.astype(v.dtype), v)


def blocks(q: jax.Array, k: jax.Array, v: jax.Array, chunk: int = 0) -> jax.Array:
    """Queries in chunks that meet only the keys so far: about half of the scores are never computed."""
    length = q.shape[1]
    chunk = chunk or max(64, -(-length // 16))
    q = jnp.transpose(q * q.shape[-1] ** -0.5, (0, 2, 3, 1, 4))
    k, v = (jnp.transpose(z, (0, 2, 1, 3)) for z in (k, v))
    done = []
    for start in range(0, length, chunk):
        stop = min(start + chunk, length)
        seen = jnp.arange(start, stop)[:, None] >= jnp.arange(stop)
        done.append(_attended(q[:, :, :, start:stop], k[:, :, :stop], v[:, :, :stop], seen))
    return jnp.transpose(jnp.concatenate(done, 3), (0, 3, 1, 2, 4))


def _attended(q: jax.Array, k: jax.Array, v: jax.Array, seen: jax.Array) -> jax.Array:
    scores = jnp.einsum("bkgth,bksh->bkgts", q, k, preferred_element_type=jnp.float32)
    scores = jnp.where(seen, scores, HIDDEN)
    raised = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    total = raised.sum(-1, keepdims=True)
    mixed = jnp.einsum("bkgts,bksh->bkgth", raised.astype(v.dtype), v)
    return (mixed / total).astype(v.dtype)


def cudnn(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """cuDNN's fused kernel (bfloat16, on GPUs), run on each device's own rows and heads."""

    def local(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        flat = q.reshape(*q.shape[:2], -1, q.shape[-1])
        mixed = jax.nn.dot_product_attention(flat, k, v, is_causal=True, implementation="cudnn")
        return mixed.reshape(q.shape)

    return _per_device(local, q, k, v)


def _per_device(local: Callable, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    if jax.sharding.get_abstract_mesh().empty:
        return local(q, k, v)
    queries, keys = P("data", None, "model", None, None), P("data", None, "model", None)
    return jax.shard_map(local, in_specs=(queries, keys, keys), out_specs=queries, check_vma=False)(q, k, v)


def splash(q: jax.Array, k: jax.Array, v: jax.Array, interpret: bool = False) -> jax.Array:
    """The splash kernel of TPUs, run on each device's own rows and heads; `interpret` runs it anywhere."""
    from jax.experimental.pallas.ops.tpu import splash_attention as kernels

    def local(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        length = q.shape[1]
        size = next(size for size in SPLASH_BLOCKS if length % size == 0)
        mask = kernels.MultiHeadMask([kernels.CausalMask((length, length))] * q.shape[3])
        one = kernels.make_splash_mqa_single_device(
            mask,
            block_sizes=kernels.BlockSizes(
                block_q=size, block_kv=size, block_kv_compute=size, block_q_dkv=size, block_kv_dkv=size,
                block_kv_dkv_compute=size, block_q_dq=size, block_kv_dq=size,
            ),
            interpret=interpret,
        )  # fmt: skip
        q = jnp.transpose(q * q.shape[-1] ** -0.5, (0, 2, 3, 1, 4))  # [B, K, G, T, H]
        k, v = (jnp.transpose(z, (0, 2, 1, 3)) for z in (k, v))
        mixed: jax.Array = jax.vmap(jax.vmap(one))(q, k, v)  # type: ignore[assignment]
        return jnp.transpose(mixed, (0, 3, 1, 2, 4))

    return _per_device(local, q, k, v)


SPLASH_BLOCKS = (
    512,
    384,
    256,
    128,
)  # rows and columns of scores at a time; one divides every multiple of 128
IMPLEMENTATIONS = {"reference": reference, "blocks": blocks, "cudnn": cudnn, "splash": splash}


def choose(platform: str, dtype: jax.typing.DTypeLike, length: int, head: int) -> str:
    """The name of the fastest implementation that supports the case."""
    half = jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
    if platform in ("gpu", "cuda") and half and head % 8 == 0 and head <= 128 and length % 64 == 0:
        return "cudnn"
    if platform == "tpu" and length % 128 == 0 and head % 128 == 0:
        return "splash"
    return "blocks" if length >= 128 else "reference"


def attend(q: jax.Array, k: jax.Array, v: jax.Array, implementation: str = "auto") -> jax.Array:
    """Causal attention; `implementation` is "auto" or a name in `IMPLEMENTATIONS`."""
    if implementation == "auto":
        implementation = choose(jax.default_backend(), q.dtype, q.shape[1], q.shape[-1])
    return IMPLEMENTATIONS[implementation](q, k, v)
