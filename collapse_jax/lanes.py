"""Fits side by side: one program for a group of seeds and arms, whose arrays have a leading axis G, their lanes.

Lanes never mix: each has its own weights, batches and keys. A program always has the same number of lanes;
where fewer fits are left to do, the last one fills the rest, so that no fit's numbers depend on which of
the others are already done.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P


def over(f: Callable, lanes: int, axes: Sequence[int | None]) -> Callable:
    """`f` over the leading axis of the arguments with axis 0; results have a leading axis of `lanes`."""
    if lanes > 1:
        mapped = jax.vmap(f, in_axes=tuple(axes), spmd_axis_name="seed")
        return lambda *arguments: jax.tree.map(_split, mapped(*arguments))

    def one(*arguments: Any) -> Any:
        inner = (
            jax.tree.map(lambda x: jnp.squeeze(x, 0), argument) if axis == 0 else argument
            for argument, axis in zip(arguments, axes, strict=True)
        )
        return jax.tree.map(lambda x: jnp.expand_dims(x, 0), f(*inner))

    return one


def filled(items: Sequence[Any], lanes: int) -> list[Any]:
    """`lanes` items: those given, the last repeated."""
    return [*items, *[items[-1]] * (lanes - len(items))]


def _split(x_G: jax.Array) -> jax.Array:
    """The array split over the mesh axis "seed": what depends on no argument comes out of vmap whole."""
    if jax.sharding.get_abstract_mesh().empty:
        return x_G
    return jax.sharding.reshard(x_G, P("seed", *jax.typeof(x_G).sharding.spec[1:]))


def axis(lanes: int) -> str | None:
    """The mesh axis of the leading dimension G; a single lane is taken apart and must be whole."""
    return "seed" if lanes > 1 else None


@jax.jit
def _stack(trees: list[Any]) -> Any:
    def joined(*xs: jax.Array) -> jax.Array:
        return jnp.stack(xs) if len(xs) == 1 else _split(jnp.stack(xs))

    return jax.tree.map(joined, *trees)


def stack(trees: Sequence[Any], lanes: int) -> Any:
    """One tree [G, ...] of a tree per lane."""
    return _stack(filled(trees, lanes))


@jax.jit
def _pick(tree: Any, index: jax.Array) -> Any:
    def one(x: jax.Array) -> jax.Array:
        where = jax.typeof(x).sharding
        if where.spec and where.spec[0] is not None:
            x = jax.sharding.reshard(x, P(None, *where.spec[1:]))
        return jax.lax.dynamic_index_in_dim(x, index, keepdims=False)

    return jax.tree.map(one, tree)


def pick(tree: Any, index: int) -> Any:
    """The tree of one lane out of [G, ...]."""
    return _pick(tree, index)
