"""One decoder-only transformer: GPT-2 style (learned positions, LayerNorm, GELU, biases, tied head) and
Llama-2 style (rotary positions, RMSNorm, SwiGLU, grouped queries, no biases, separate head).

Radford et al. 2019; Touvron et al. 2023. The blocks are one module whose weights carry a leading layer axis;
the forward pass scans over it. Key heads, hidden units and the vocabulary are split over the mesh axis
"model", rows over "data".
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from collapse_jax.config import choice, number
from collapse_jax.models import layers
from collapse_jax.models.attention import IMPLEMENTATIONS, attend
from collapse_jax.models.layers import contract, normal, placed, weight, zeros


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """What the network is (and how it is computed, in the last three fields)."""

    style: str = choice("gpt2", ("gpt2", "llama2"))
    layers: int = number(4, 1, 1000)
    width: int = number(128, 2, 65536)
    heads: int = number(4, 1, 1024)
    kv_heads: int = number(0, 0, 1024)  # 0: as many as heads
    mlp: int = number(0, 0, 1 << 20)  # hidden units; 0: four times the width
    context: int = number(256, 1, 1 << 20)
    vocab_size: int = number(512, 2, 1 << 20)
    head: str = choice("style", ("style", "tied", "untied"))  # of the style: gpt2 tied, llama2 untied
    rope_theta: float = number(10000.0, 1.0)
    norm_eps: float = number(1e-5, 0.0, 1.0)
    dtype: str = choice("float32", ("float32", "bfloat16"))  # of the computation; weights are float32
    attention: str = choice("auto", ("auto", *IMPLEMENTATIONS), identity=False)
    remat: str = choice("none", ("none", "dots", "full"), identity=False)
    unroll: int = number(0, 0, 1000, identity=False)  # layers per step of the scan; 0: by device and remat
    loss_parts: int = number(
        1, 1, 1 << 20, identity=False
    )  # of the tokens; logits of one part exist at a time

    @property
    def key_heads(self) -> int:
        return self.kv_heads or self.heads

    @property
    def head_size(self) -> int:
        return self.width // self.heads

    @property
    def hidden(self) -> int:
        return self.mlp or 4 * self.width

    @property
    def tied(self) -> bool:
        return self.head == "tied" or (self.head == "style" and self.style == "gpt2")

    def problems(self) -> list[str]:
        """One line for every combination of settings that cannot work."""
        lines = []
        if self.width % self.heads:
            lines.append(f"heads={self.heads} must divide width={self.width}")
        if self.heads % self.key_heads:
            lines.append(f"kv_heads={self.kv_heads} must divide heads={self.heads}")
        if self.style == "llama2" and self.head_size % 2:
            lines.append(f"width/heads={self.head_size} must be even for rotary positions")
        return lines


def _gpt2(layers: int, width: int, heads: int, vocab_size: int, context: int) -> TransformerConfig:
    return TransformerConfig("gpt2", layers, width, heads, vocab_size=vocab_size, context=context)


def _llama2(layers: int, width: int, heads: int, vocab_size: int, context: int) -> TransformerConfig:
    return TransformerConfig("llama2", layers, width, heads, vocab_size=vocab_size, context=context)


PRESETS = {
    "gpt2_tiny": _gpt2(2, 64, 2, 512, 64),
    "llama2_tiny": _llama2(2, 64, 2, 512, 64),
    "gpt2_xs": _gpt2(4, 128, 4, 512, 256),
    "gpt2_s": _gpt2(6, 384, 6, 4096, 256),
    "gpt2_9m": _gpt2(8, 256, 8, 8000, 2048),
    "gpt2_124m": _gpt2(12, 768, 12, 50257, 1024),
    "llama2_12m": _llama2(8, 256, 8, 8000, 2048),
    "llama2_42m": _llama2(8, 512, 8, 8000, 2048),
    "llama2_126m": _llama2(12, 768, 12, 8000, 2048),
}


class Block(nnx.Module):
    """All layers' blocks at once: every weight has a leading layer axis, a call takes one layer's slice."""

    def __init__(self, rngs: nnx.Rngs, config: TransformerConfig):
        c, n = config, config.layers
        plain = c.style == "gpt2"
        norm = layers.LayerNorm if plain else layers.RMSNorm
        small, last = normal(0.02), normal(0.02 / (2 * n) ** 0.5)
        # one matrix for queries, keys and values, grouped by key head so that a split over "model" keeps
        # every key head beside the queries that use it
        fused, across = c.key_heads * (c.heads // c.key_heads + 2) * c.head_size, (None, "model")
        self.norm_1 = norm(rngs, c.width, c.norm_eps, n)
        self.qkv = weight(rngs, (c.width, fused), across, small, n)
        self.out = weight(rngs, (c.heads * c.head_size, c.width), ("model", None), last, n)
        self.norm_2 = norm(rngs, c.width, c.norm_eps, n)
        self.gate = None if plain else weight(rngs, (c.width, c.hidden), across, small, n)
        self.up = weight(rngs, (c.width, c.hidden), across, small, n)
        self.down = weight(rngs, (c.hidden, c.width), ("model", None), last, n)
        self.qkv_bias = weight(rngs, (fused,), ("model",), zeros, n) if plain else None
        self.out_bias = weight(rngs, (c.width,), (None,), zeros, n) if plain else None
        self.up_bias = weight(rngs, (c.hidden,), ("model",), zeros, n) if plain else None
        self.down_bias = weight(rngs, (c.width,), (None,), zeros, n) if plain else None
        self.grouped = (c.key_heads, c.heads // c.key_heads + 2, c.head_size)

    def queries_keys_values(self, x: jax.Array, rows: int, turn: Any = None) -> tuple[jax.Array, ...]:
        """x [N, D] -> q [B, T, K, G, H] and k, v [B, T, K, H], rotated by `turn` where given; N = B T."""
        fused = _plus(contract(self.norm_1(x), self.qkv[...], "model"), self.qkv_bias)
        shape, where = (rows, x.shape[0] // rows, *self.grouped), ("data", None, "model", None, None)
        fused = jnp.reshape(fused, shape, out_sharding=placed(*where))
        q, k, v = fused[..., :-2, :], fused[..., -2, :], fused[..., -1, :]
        return (q, k, v) if turn is None else (layers.rotate(q, *turn), layers.rotate(k, *turn), v)

    def rest(self, x: jax.Array, mixed: jax.Array) -> jax.Array:
        """What follows attention: its output projection and the MLP, both added to the stream x [N, D]."""
        flat = jnp.reshape(mixed, (x.shape[0], -1), out_sharding=placed("data", "model"))
        x = x + _plus(contract(flat, self.out[...], None), self.out_bias)
        normed = self.norm_2(x)
        hidden = _plus(contract(normed, self.up[...], "model"), self.up_bias)
        if self.gate is None:
            hidden = jax.nn.gelu(hidden, approximate=True)
        else:
            hidden = jax.nn.silu(contract(normed, self.gate[...], "model")) * hidden
        return x + _plus(contract(hidden, self.down[...], None), self.down_bias)


def _plus(x: jax.Array, bias: nnx.Param[jax.Array] | None) -> jax.Array:
    return x if bias is None else x + bias[...].astype(x.dtype)


class Transformer(nnx.Module):
    """Next-token logits; parameters in float32, computation in `config.dtype`."""

    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs):
        c, self.config = config, config
        init, shape = normal(0.02), (c.vocab_size, c.width)
        self.tokens = weight(rngs, shape, ("model", None), init)
        self.positions = weight(rngs, (c.context, c.width), (None, None), init) if c.style == "gpt2" else None
        self.blocks = Block(rngs, c)
        self.norm = (layers.LayerNorm if c.style == "gpt2" else layers.RMSNorm)(rngs, c.width, c.norm_eps)
        self.head = None if c.tied else weight(rngs, shape, ("model", None), init)

    def enter(self, ids_BT: jax.Array, start: jax.Array | int = 0) -> tuple[jax.Array, Any]:
        """The residual stream [B T, D] of ids at positions start..start+T-1, and their rotary turn."""
        c, where = self.config, start + jnp.arange(ids_BT.shape[1])
        x, turn = layers.embed(self.tokens[...], ids_BT, c.dtype), None
        if self.positions is None:
            turn = layers.rotary(where, c.head_size, c.rope_theta)
        else:
            spots = self.positions[...].at[where].get(mode="clip", out_sharding=placed(None, None))
            x = x + spots.astype(c.dtype)
        return jnp.reshape(x, (-1, c.width), out_sharding=placed("data", None)), turn

    def leave(self, x_ND: jax.Array) -> jax.Array:
        """Logits [N, V] in the computation's dtype, split over "model"."""
        table = self.tokens if self.head is None else self.head
        return contract(self.norm(x_ND), table[...].T, "model")

    def __call__(self, ids_BT: jax.Array) -> jax.Array:
        """Logits [B, T, V] after each of the ids; the logits at t depend on ids 0..t only."""
        where = placed("data", None, "model")
        return jnp.reshape(self.leave(self.stream(ids_BT)), (*ids_BT.shape, -1), out_sharding=where)

    def losses(self, ids_BT: jax.Array, targets_BT: jax.Array) -> jax.Array:
        """Cross-entropy [B, T] in nats of the targets after each of the ids, `loss_parts` parts in turn."""
        (rows, length), parts = ids_BT.shape, self.config.loss_parts
        split = (rows, parts, length // parts)

        def part(given: tuple[jax.Array, jax.Array]) -> jax.Array:
            x_BTD, targets_BT = given
            flat = jnp.reshape(x_BTD, (-1, x_BTD.shape[-1]), out_sharding=placed("data", None))
            logits_BTV = jnp.reshape(
                self.leave(flat), (*targets_BT.shape, -1), out_sharding=placed("data", None, "model")
            )
            return token_losses(logits_BTV, targets_BT)

        x_BPTD = jnp.reshape(
            self.stream(ids_BT), (*split, self.config.width), out_sharding=placed("data", None, None, None)
        )
        if parts == 1:
            return part((x_BPTD[:, 0], targets_BT))
        given = jnp.moveaxis(x_BPTD, 1, 0), jnp.moveaxis(targets_BT.reshape(split), 1, 0)
        found_PBT = jax.lax.map(jax.checkpoint(part), given)
        return jnp.moveaxis(found_PBT, 0, 1).reshape(rows, length)

    def stream(self, ids_BT: jax.Array) -> jax.Array:
        """The residual stream [B T, D] after the last block."""
        rows = ids_BT.shape[0]
        x, turn = self.enter(ids_BT)

        def layer(x: jax.Array, block: Block) -> tuple[jax.Array, None]:
            q, k, v = block.queries_keys_values(x, rows, turn)
            return block.rest(x, attend(q, k, v, self.config.attention)), None

        c, unroll = self.config, self.config.unroll or 1
        if not c.unroll and c.remat == "none" and jax.default_backend() == "cpu":
            unroll = c.layers  # CPUs copy what a loop hands from the forward to the backward pass
        x, _ = jax.lax.scan(rematted(layer, c.remat, unroll), x, self.blocks, unroll=unroll)
        return x


def rematted(layer: Callable, policy: str, unroll: int = 1) -> Callable:
    """`layer`, storing for the backward pass everything ("none"), matrix products ("dots") or its input."""
    if policy == "none":
        return layer
    kept = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if policy == "dots" else None
    return jax.checkpoint(layer, policy=kept, prevent_cse=unroll > 1)


def shifted(tokens_BT: jax.Array, start_id: int) -> jax.Array:
    """The inputs whose next tokens are `tokens_BT`: the start token, then all tokens but the last."""
    return jnp.pad(tokens_BT[:, :-1], ((0, 0), (1, 0)), constant_values=start_id)


def token_losses(logits_BTV: jax.Array, targets_BT: jax.Array) -> jax.Array:
    """Cross-entropy [B, T] in nats, statistics in float32; the vocabulary may be split over "model"."""
    wide = logits_BTV.astype(jnp.float32)
    hit = jnp.arange(wide.shape[-1]) == targets_BT[..., None]
    return jax.nn.logsumexp(wide, -1) - jnp.sum(jnp.where(hit, wide, 0.0), -1)
