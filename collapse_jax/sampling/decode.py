"""Drawing rows of tokens from a transformer: parallel prefill, a KV cache, one compiled loop.

The cache comes in two parts. `Past` holds the keys and values of finished segments; steps only read it, so
it is never copied inside the loop. The few steps of the running segment write to a small cache of their
own, which is appended to the past when the segment ends. The attended length is static and grows in
stages, so that early tokens do not pay for late ones.

The random numbers of row i at position t come from `fold_in(keys[i], t)` alone: what a row becomes does
not depend on the batch that it is drawn in, but for rounding.
"""

import dataclasses
import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from collapse_jax.config import number
from collapse_jax.models.attention import HIDDEN, attend
from collapse_jax.models.layers import contract, placed
from collapse_jax.models.ragged import unless_vmapped
from collapse_jax.models.transformer import Block, Transformer

Cache = tuple[jax.Array, jax.Array]  # keys and values of one layer, [B, K, C, H]


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; the filters act in the order temperature, top_k, top_p.

    prompt_tokens: tokens of a real row that are given (0: unconditional). They are real text: measures of the samples
        leave them out.
    prompt_loss: whether fits on the samples count the loss on them.
    """

    temperature: float = number(1.0, 0.0, 1000.0)  # 0: the most likely token
    top_k: int = number(0, 0, 1 << 20)  # 0: off
    top_p: float = number(1.0, 0.0, 1.0)  # 1: off
    prompt_tokens: int = number(0, 0, 1 << 20)
    prompt_loss: bool = True


def largest(x_BV: jax.Array, weight_BV: jax.Array, budget: float) -> jax.Array:
    """Mask of the largest entries of each row, down to the one with which their weights reach `budget`.

    An entry stays when the weights of all strictly larger entries sum to less than the budget: top-k with
    weights 1, top-p with the probabilities. Equal values stay or go together, the largest always stays.
    The threshold is found by bisection on the ordered bits of float32, 32 passes instead of a sort.
    """
    bits = jax.lax.bitcast_convert_type(x_BV.astype(jnp.float32), jnp.int32)
    rank = jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)

    def halve(_: Any, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds  # mass above low >= budget, mass above high < budget
        middle = (low >> 1) + (high >> 1) + (low & high & 1)
        above = jnp.sum(jnp.where(rank > middle[:, None], weight_BV, 0), -1) >= budget
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    high = jnp.max(rank, -1)
    low, _ = jax.lax.fori_loop(0, 32, halve, (jnp.full_like(high, -(2**31)), high))
    return rank > low[:, None]


def filtered(logits_BV: jax.Array, sampling: Sampling) -> jax.Array:
    """Logits of the distribution that is drawn from: tempered, the filtered tokens hidden; float32."""
    logits = logits_BV.astype(jnp.float32) / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        logits = jnp.where(largest(logits, jnp.ones_like(logits), sampling.top_k), logits, -jnp.inf)
    if sampling.top_p < 1.0:
        shares = jax.nn.softmax(logits, -1)
        logits = jnp.where(largest(shares, shares, sampling.top_p), logits, -jnp.inf)
    return logits


def allowed(logits_BV: jax.Array, ids: int) -> jax.Array:
    """The logits with those of tokens `ids` and above hidden; 0 hides none."""
    vocabulary = logits_BV.shape[-1]
    return jnp.where(jnp.arange(vocabulary) < ids, logits_BV, HIDDEN) if 0 < ids < vocabulary else logits_BV


def draw(logits_BV: jax.Array, keys_B: jax.Array, position: jax.Array, sampling: Sampling) -> jax.Array:
    """One token per row, with the random numbers of (row key, position); -1 where the logits are not finite.

    Two Gumbel maxima, the first over groups of about sqrt(V) tokens and their total chances, the second within
    the group: the same distribution from 2 sqrt(V) random numbers instead of V, and the rarest tokens are
    drawn at their rate although the numbers have 24 bits.
    """
    logits_BV = reshard(logits_BV, "data", None)
    finite_B = jnp.isfinite(jnp.max(logits_BV, -1))
    if sampling.temperature == 0.0:
        return jnp.where(finite_B, jnp.argmax(logits_BV, -1), -1).astype(jnp.int32)
    chances_BV = filtered(logits_BV, sampling)
    rows, vocabulary = chances_BV.shape
    size = math.isqrt(vocabulary - 1) + 1
    groups = -(-vocabulary // size)
    spare = groups * size - vocabulary
    chances_BNS = jnp.pad(chances_BV, ((0, 0), (0, spare)), constant_values=-jnp.inf).reshape(
        rows, groups, size
    )

    def noise(key: jax.Array) -> jax.Array:
        return jax.random.gumbel(jax.random.fold_in(key, position), (groups + size,), mode="high")

    noise_BM = jax.vmap(noise)(keys_B)
    group_B = jnp.argmax(jax.nn.logsumexp(chances_BNS, -1) + noise_BM[:, :groups], -1)
    mine = jnp.arange(groups)[:, None] == group_B[:, None, None]
    within_BS = jnp.max(jnp.where(mine, chances_BNS, -jnp.inf), 1) + noise_BM[:, groups:]
    return jnp.where(finite_B, size * group_B + jnp.argmax(within_BS, -1), -1).astype(jnp.int32)


def reshard(x: jax.Array, *axes: str | None) -> jax.Array:
    where = placed(*axes)
    return x if where is None else jax.reshard(x, where)


class RowForm(NamedTuple):
    """What a row of tokens looks like.

    length: tokens in a row. start_id: the token that every row begins from and that is not part of it.
    stop_id: a row ends at the first such token and is filled up with it (-1: rows do not end).
    ids: only tokens below it may be drawn (0: the model's whole vocabulary).
    """

    length: int
    start_id: int
    stop_id: int = -1
    ids: int = 0


def generate(
    model: Transformer, keys_B: jax.Array, prompt_BP: jax.Array, form: RowForm, sampling: Sampling
) -> jax.Array:
    """Rows of tokens [B, L], int32: the P >= 0 tokens of the prompt, then tokens drawn one by one (see `draw`).

    Traceable; `form` and `sampling` are static. L is at most the model's context and P at most L. After each
    stage the rows that have not ended are put first, and the next one computes as small a part of the batch as
    holds them.
    """
    keys_B, prompt_BP = reshard(keys_B, "data"), reshard(prompt_BP.astype(jnp.int32), "data", None)
    known = jnp.pad(prompt_BP, ((0, 0), (1, 0)), constant_values=form.start_id)
    weights = _laid_out(model)
    ended_B = jnp.any(known[:, 1:] == form.stop_id, 1)
    rows = Rows(keys_B, known[:, -1], ended_B, prefill(model, known[:, :-1]))
    tokens_BT, order_B = known[:, 1:], None
    for begin, end in stages(prompt_BP.shape[1], form.length):
        if begin > prompt_BP.shape[1] and len(_sizes(rows, form)) > 2:
            first_B = jnp.argsort(reshard(rows.ended_B, None), stable=True)
            order_B = first_B if order_B is None else order_B[first_B]
            rows, tokens_BT = _taken((rows, tokens_BT), first_B)
        rows, drawn_BS = _segment(model, weights, rows, begin, end, form, sampling)
        tokens_BT = jnp.concatenate([tokens_BT, drawn_BS], 1)
    return tokens_BT if order_B is None else _taken(tokens_BT, jnp.argsort(order_B))


class Rows(NamedTuple):
    """Rows that are being drawn: keys [B], last tokens [B], whether they have ended [B], a cache per layer."""

    keys_B: jax.Array
    token_B: jax.Array
    ended_B: jax.Array
    past: list[Cache]


def _split_as(x: jax.Array, changed: jax.Array) -> jax.Array:
    """The second array split over the mesh as the first is."""
    return reshard(changed, *jax.typeof(x).sharding.spec)


def _taken(tree: Any, order_B: jax.Array) -> Any:
    """The rows of every array in this order."""
    return jax.tree.map(lambda x: x.at[order_B].get(out_sharding=jax.typeof(x).sharding), tree)


def _sizes(rows: Rows, form: RowForm) -> list[int]:
    """How many rows a stage may compute: none, a quarter, half or all; rows split over devices stay together."""
    count = len(rows.token_B)
    if form.stop_id < 0:
        return [count]
    alone = jax.sharding.get_abstract_mesh().shape.get("data", 1) == 1
    return sorted({0, count // 4, count // 2, count}) if alone else [0, count]


def prefill(model: Transformer, ids_BP: jax.Array) -> list[Cache]:
    """The keys and values [B, K, P, H] of every layer for ids at positions 0..P-1, computed together."""
    x, turn = model.enter(ids_BP)
    caches = []
    for block in _layers(model):
        q, k, v = block.queries_keys_values(x, ids_BP.shape[0], turn)
        caches.append((jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2)))
        if ids_BP.shape[1]:
            x = block.rest(x, attend(q, k, v, model.config.attention))
    return caches


def stages(begin: int, end: int) -> list[tuple[int, int]]:
    """Positions [begin, end) in consecutive segments of equal length, the last one shorter.

    Each is compiled by itself and early ones attend to less: four pay at once, eight for long rows.
    """
    size = max(16, -(-(end - begin) // (4 if end - begin <= 512 else 8)))
    return [(at, min(at + size, end)) for at in range(begin, end, size)]


class Weights(NamedTuple):
    """The weights as the loop reads them: a block per layer, and the table of the output tokens [D, V]."""

    blocks: list[Block]
    table_DV: jax.Array


def _layers(model: Transformer) -> list[Block]:
    return [jax.tree.map(lambda w, i=i: w[i], model.blocks) for i in range(model.config.layers)]


def _laid_out(model: Transformer) -> Weights:
    """Matrices cast to the dtype of the computation and the table turned once, not again at every token."""
    dtype = model.config.dtype
    table_VD = (model.tokens if model.head is None else model.head)[...]
    blocks = jax.tree.map(lambda w: w.astype(dtype) if w.ndim == 2 else w, _layers(model))
    return jax.lax.optimization_barrier(Weights(blocks, table_VD.astype(dtype).T))


def _segment(
    model: Transformer,
    weights: Weights,
    rows: Rows,
    begin: int,
    end: int,
    form: RowForm,
    sampling: Sampling,
) -> tuple[Rows, jax.Array]:
    """The rows after the tokens at positions begin..end-1 [B, S], and these; the rows that go on come first."""

    def step(given: Any, carry: Any, at: jax.Array) -> tuple[Any, jax.Array]:
        (model, weights, rows), (token, ended, recent) = given, carry
        logits, recent = _logits(model, weights, rows.past, recent, token, begin, at)
        drawn = draw(allowed(logits, form.ids), rows.keys_B, begin + at, sampling)
        if form.stop_id >= 0:
            drawn = jnp.where(ended, form.stop_id, drawn)
            ended = ended | (drawn == form.stop_id)
        return (drawn, ended, recent), drawn

    def run(count: int, model: Transformer, weights: Weights, rows: Rows) -> tuple[Any, jax.Array]:
        """Computes the first `count` rows; the others have ended."""
        total, where = len(rows.token_B), placed("data", None)
        if not count:
            drawn_BS = jnp.full((total, end - begin), form.stop_id, jnp.int32, out_sharding=where)
            return (
                rows.token_B,
                rows.ended_B,
                jax.tree.map(lambda z: _room(z, end - begin), rows.past),
            ), drawn_BS
        some = jax.tree.map(lambda x: _split_as(x, x[:count]), rows) if count < total else rows
        state = some.token_B, some.ended_B, jax.tree.map(lambda z: _room(z, end - begin), some.past)
        (token_B, ended_B, recent), drawn_SB = jax.lax.scan(
            partial(step, (model, weights, some)), state, jnp.arange(end - begin)
        )

        def filled(x: jax.Array, value: Any = 0) -> jax.Array:
            spare = [(0, total - count), *[(0, 0)] * (x.ndim - 1)]
            return _split_as(x, jnp.pad(x, spare, constant_values=value)) if count < total else x

        state = filled(token_B), filled(ended_B, True), jax.tree.map(filled, recent)
        return state, filled(drawn_SB.T, form.stop_id)

    sizes = _sizes(rows, form)

    def fewest(model: Transformer, weights: Weights, rows: Rows) -> tuple[Any, jax.Array]:
        living = jnp.sum(~reshard(rows.ended_B, None))
        which = jnp.searchsorted(jnp.array(sizes), living)
        return jax.lax.switch(which, [partial(run, n) for n in sizes], model, weights, rows)

    whole = partial(run, sizes[-1])
    compute = whole if len(sizes) == 1 else unless_vmapped(fewest, whole)
    (token_B, ended_B, recent), drawn_BS = compute(model, weights, rows)
    past = jax.tree.map(lambda old, new: jnp.concatenate([old, new], 2), rows.past, recent)
    return Rows(rows.keys_B, token_B, ended_B, past), drawn_BS


def _room(cache: jax.Array, size: int) -> jax.Array:
    rows, heads, _, width = cache.shape
    where = placed("data", "model", None, None)
    return jnp.zeros((rows, heads, size, width), cache.dtype, out_sharding=where)


def _logits(
    model: Transformer,
    weights: Weights,
    past: list[Cache],
    recent: list[Cache],
    token_B: jax.Array,
    begin: int,
    at: jax.Array,
) -> tuple[jax.Array, list[Cache]]:
    """Logits [B, V] after one more token at position begin + at, and the running segment's cache with it."""
    x, turn = model.enter(token_B[:, None], begin + at)
    grown = []
    for block, old, new in zip(weights.blocks, past, recent, strict=True):
        q, k, v = block.queries_keys_values(x, token_B.shape[0], turn)
        new = _put(new[0], k, at), _put(new[1], v, at)
        grown.append(new)
        x = block.rest(x, _attend(q[:, 0], old, new, at))
    return contract(model.norm(x), weights.table_DV, "model"), grown


def _put(cache_BKCH: jax.Array, one_B1KH: jax.Array, at: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(cache_BKCH, jnp.swapaxes(one_B1KH, 1, 2), at, 2)


def _attend(q_BKGH: jax.Array, past: Cache, recent: Cache, at: jax.Array) -> jax.Array:
    """The mixture [B, K, G, H] of all past values and those of the running segment up to index `at`."""
    length, size = past[0].shape[2], recent[0].shape[2]
    q = q_BKGH * q_BKGH.shape[-1] ** -0.5
    older, newer = (
        jnp.einsum("bkgh,bkch->bkgc", q, keys, preferred_element_type=jnp.float32)
        for keys in (past[0], recent[0])
    )
    newer = jnp.where(jnp.arange(size) <= at, newer, HIDDEN)
    shares = jax.nn.softmax(jnp.concatenate([older, newer], -1), -1).astype(q.dtype)
    return jnp.einsum("bkgc,bkch->bkgh", shares[..., :length], past[1]) + jnp.einsum(
        "bkgc,bkch->bkgh", shares[..., length:], recent[1]
    )
