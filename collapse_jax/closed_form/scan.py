"""One chain: the scan over the generations of one seed, on the layouts of plan.py.

The engine maps `chain` over seeds. What is static - widths, which accumulators are always used, whether
blocks are ever written in part - is read off the layout before tracing, so a table pays only for what it
needs.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.closed_form import plan
from collapse_jax.closed_form.family import Family, Tree
from collapse_jax.workflows import Workflow


def chain(
    family: Family,
    workflow: Workflow,
    pool: plan.Pool | None,
    slots: plan.Slots | None,
    how: str,
    metrics: tuple[str, ...],
    key: jax.Array,
) -> dict[str, jax.Array]:
    """Generations 1..T of one seed: {metric: [generations]}."""
    of_truth, of_real, of_chain = jax.random.split(key, 3)
    truth = family.truth(of_truth, workflow.rows)
    held = _begin(family, truth, pool, slots, how, of_real)

    def generation(held, at):
        t, in_pool, in_slots = at
        of_draw, of_subset, of_late = jax.random.split(jax.random.fold_in(of_chain, t), 3)
        rows_held, statistics_held = held
        pick = None
        if pool is not None:
            pick, rows, weight = _mixture(pool, in_pool, rows_held, of_subset)
        if slots is not None:
            params = family.estimate(truth, _merged(family, truth, slots, in_slots, statistics_held))
        else:
            params = family.fit(truth, rows(), weight)
        found = family.measure(truth, params)
        out = {name: jnp.asarray(found[name], float) for name in metrics}
        held = _put(
            family, truth, params, pool, slots, how, held, (in_pool, in_slots), pick, of_draw, of_late
        )
        return held, out

    steps = jnp.arange(1, workflow.generations + 1)
    return jax.lax.scan(generation, held, (steps, per_step(pool), per_step(slots)))[1]


def per_step(layout: plan.Pool | plan.Slots | None) -> dict[str, jax.Array]:
    """The arrays of a plan, which the scan deals out a generation at a time."""
    return (
        {}
        if layout is None
        else {k: jnp.asarray(v) for k, v in vars(layout).items() if isinstance(v, np.ndarray)}
    )


def _begin(
    family: Family, truth: Tree, pool: plan.Pool | None, slots: plan.Slots | None, how: str, key: jax.Array
) -> tuple[Tree, Tree]:
    """The pool and the accumulators before the first fit: real rows."""
    sizes = [rows for _, rows in (pool.first if pool is not None else slots.first)]  # type: ignore[union-attr]
    real = family.real(truth, key, sum(sizes)) if pool is not None or how == "rows" else None
    edges = np.cumsum([0, *sizes])
    pieces = [jax.tree.map(lambda a, i=i: a[edges[i] : edges[i + 1]], real) for i in range(len(sizes))]
    rows_held = statistics_held = None
    if pool is not None:
        rows_held = jax.tree.map(lambda a: jnp.zeros((pool.size, *a.shape[1:]), a.dtype), real)
        for (address, _), piece in zip(pool.first, pieces, strict=True):
            rows_held = jax.tree.map(
                lambda held, a, to=address: held.at[to : to + len(a)].set(a), rows_held, piece
            )
    if slots is not None:
        found = []
        for i, (slot, rows) in enumerate(slots.first):
            key_i = jax.random.fold_in(key, i)
            found.append(
                (
                    slot,
                    family.real_statistics(truth, key_i, jnp.asarray(float(rows)))
                    if how == "statistics"
                    else family.statistics(truth, pieces[i], jnp.ones(rows)),
                )
            )
        statistics_held = jax.tree.map(lambda a: jnp.zeros((slots.count, *a.shape), a.dtype), found[0][1])
        for slot, new in found:
            statistics_held = _add(family, truth, statistics_held, slot, False, new)
    return rows_held, statistics_held


def _mixture(pool: plan.Pool, at: dict[str, jax.Array], held: Tree, key: jax.Array):
    """How to pick rows of the mixture, and the rows a fit uses (as a thunk) with their weights."""
    take = int(pool.take.max())

    def address(v):
        if pool.base.shape[1] == 1:
            return at["base"][0] + v
        run = jnp.sum(v[:, None] >= at["end"][None, :-1], 1)
        return at["base"][run] + v - at["begin"][run]

    chosen = subset(key, take, int(pool.available.max()), at) if pool.subsampled else None

    def pick(key, count):
        v = jnp.minimum(
            (jax.random.uniform(key, (count,), float) * at["take"]).astype(jnp.int32), at["take"] - 1
        )
        return jax.tree.map(lambda a: a[address(v if chosen is None else chosen[v])], held)

    def rows():
        if pool.whole and chosen is None:
            return jax.tree.map(lambda a: a[:take], held)
        v = jnp.minimum(jnp.arange(take), at["available"] - 1) if chosen is None else chosen
        return jax.tree.map(lambda a: a[address(v)], held)

    return pick, rows, (jnp.arange(take) < at["take"]).astype(float)


def subset(key: jax.Array, take: int, size: int, at: dict[str, jax.Array]) -> jax.Array:
    """`take` distinct places in [0, available), uniform over subsets, [take]; `size` bounds `available`.

    Places are drawn with replacement and the first `take` distinct ones kept, which is uniform by symmetry; a
    round that finds too few is drawn anew. A mixture that is used whole keeps its order.
    """
    draws = 2 * take + 20
    for_place, for_time = size.bit_length(), draws.bit_length()
    whole_number = jnp.int32 if for_place + for_time < 31 else jnp.int64
    arrival = jnp.arange(draws, dtype=whole_number)
    whole = at["available"] <= at["take"]

    def once(state):
        turn, _, _ = state
        u = jax.random.uniform(jax.random.fold_in(key, turn), (draws,), float)
        v = (u * at["available"]).astype(whole_number)
        # Two sorts of packed integers: by place to mark its first arrival, then first arrivals by time.
        by_place = jnp.sort((v << for_time) | arrival)
        place, time = by_place >> for_time, by_place & (2**for_time - 1)
        first = jnp.concatenate([jnp.ones(1, bool), place[1:] != place[:-1]])
        by_time = jnp.sort((jnp.where(first, time, draws) << for_place) | place)[:take]
        chosen = (by_time & (2**for_place - 1)).astype(jnp.int32)
        return turn + 1, chosen, whole | (first.sum() >= at["take"])

    state = (0, jnp.zeros(take, jnp.int32), jnp.zeros((), bool))
    chosen = jax.lax.while_loop(lambda s: ~s[2], once, state)[1]
    return jnp.where(whole, jnp.minimum(jnp.arange(take), at["available"] - 1), chosen)


def _merged(family: Family, truth: Tree, slots: plan.Slots, at: dict[str, jax.Array], held: Tree) -> Tree:
    """Statistics of the mixture: the accumulators that it uses, together."""

    def one(i):
        part = jax.tree.map(lambda a: a[i], held)
        return (
            part
            if slots.uses[:, i].all()
            else jax.tree.map(lambda a: jnp.where(at["uses"][i], a, jnp.zeros_like(a)), part)
        )

    out = one(0)
    if slots.count <= 4:
        for i in range(1, slots.count):
            out = family.merge(truth, out, one(i))
        return out
    rest = jax.tree.map(
        lambda a: jnp.where(at["uses"][1:].reshape((-1,) + (1,) * (a.ndim - 1)), a[1:], 0), held
    )
    return jax.lax.scan(lambda a, b: (family.merge(truth, a, b), None), out, rest)[0]


def _add(family: Family, truth: Tree, held: Tree, slot: Any, clear: Any, new: Tree) -> Tree:
    """Merge `new` into an accumulator, or put it in its place where `clear` (True skips the merge)."""
    if clear is not True:
        old = jax.tree.map(lambda a: jnp.where(clear, jnp.zeros_like(a[0]), a[slot]), held)
        new = family.merge(truth, old, new)
    return jax.tree.map(lambda a, b: a.at[slot].set(b), held, new)


def _put(
    family: Family,
    truth: Tree,
    params: Tree,
    pool: plan.Pool | None,
    slots: plan.Slots | None,
    how: str,
    held: tuple[Tree, Tree],
    at: tuple[dict, dict],
    pick: Callable | None,
    key: jax.Array,
    key_late: jax.Array,
) -> tuple[Tree, Tree]:
    """Draw the samples of a generation (and real rows that arrive after it) and keep what will be used."""
    (rows_held, statistics_held), (in_pool, in_slots) = held, at
    layout = pool if pool is not None else slots
    made, late = int(layout.made.max()), int(layout.late.max())  # type: ignore[union-attr]
    extra = {"pick": pick} if family.resamples else {}
    for real, width, k in ((False, made, key), (True, late, key_late)):
        if not width:
            continue
        rows = None
        if pool is not None or (real and how == "rows"):
            place = {"start": in_pool["late_start"]} if family.numbered and pool is not None else {}
            rows = (
                family.real(truth, k, width, **place)
                if real
                else family.draw(truth, params, k, width, **extra)
            )
        if pool is not None:
            counts = pool.late if real else pool.made
            rows_held = _write(
                rows_held,
                rows,
                in_pool["late_write" if real else "write"],
                in_pool["late" if real else "made"],
                bool((counts[:-1] != width).any()),
            )
        if slots is not None:
            count = in_slots["late" if real else "made"]
            if how == "statistics":
                new = (
                    family.real_statistics(truth, k, count.astype(float))
                    if real
                    else family.draw_statistics(truth, params, k, count.astype(float))
                )
            else:
                weight = (jnp.arange(width) < count).astype(float)
                new = (
                    family.reduced(truth, params, k, width, weight)
                    if rows is None
                    else family.statistics(truth, rows, weight)
                )
            statistics_held = _keep(family, truth, statistics_held, slots, in_slots, real, new)
    return rows_held, statistics_held


def _write(held: Tree, rows: Tree, address: jax.Array, count: jax.Array, partly: bool) -> Tree:
    """Rows into the pool at `address`; with `partly` only the first `count` of them."""

    def one(a, new):
        if partly:
            old = jax.lax.dynamic_slice_in_dim(a, address, len(new))
            new = jnp.where((jnp.arange(len(new)) < count).reshape((-1,) + (1,) * (a.ndim - 1)), new, old)
        return jax.lax.dynamic_update_slice_in_dim(a, new, address, 0)

    return jax.tree.map(one, held, rows)


def _keep(
    family: Family, truth: Tree, held: Tree, slots: plan.Slots, at: dict, real: bool, new: Tree
) -> Tree:
    """Statistics into their accumulator, leaving all as it was where there are none."""
    counts, clears = (slots.late, slots.late_clear) if real else (slots.made, slots.clear)
    slot, clear, count = (
        at[name] for name in (("late_put", "late_clear", "late") if real else ("put", "clear", "made"))
    )
    always = True if clears[:-1].all() else clear
    out = _add(family, truth, held, slot if slots.count > 1 else 0, always, new)
    if (counts[:-1] > 0).all():
        return out
    return jax.tree.map(lambda a, b: jnp.where(count > 0, a, b), out, held)
