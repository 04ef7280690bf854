"""Rows of different sizes, padded to one, computed without most of the padding.

On each device the rows of a batch are sorted by their count of atoms and computed a few at a time, each few at
the smallest of some fixed sizes ("caps") that holds the largest of them. Every batch is computed exactly and by
the one compiled program. Of the computed pairs of atoms about a fifth are padding, where whole batches at the
largest size would have two thirds or more.

Under `jax.vmap`, where a choice between sizes becomes the computation of all of them, rows are computed whole.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jax.sharding import PartitionSpec as P

Rows = dict[str, jax.Array]  # each with a leading row axis [B, ...]; "count" [B] is the size of every row
Function = Callable[[Any, Rows], Any]  # of a model and rows at a size

CAPS = 5  # sizes that are compiled; more of them save little
FEW = 4  # rows at a time: what they need stays in a core's cache
PARTS = 8  # of a batch on an accelerator, where larger parts are worth more than the last padding


def choose_caps(sizes: np.ndarray, most: int = CAPS) -> tuple[int, ...]:
    """The at most `most` sizes at which rows of these sizes have the fewest pairs of places; the last is the
    largest size."""
    values, counts = np.unique(np.asarray(sizes), return_counts=True)
    below = np.concatenate([[0], np.cumsum(counts)])
    cost = np.where(np.arange(len(values) + 1) == 0, 0.0, np.inf)  # of the rows below each value
    back = []
    for _ in range(min(most, len(values))):
        # the last cap is values[j - 1] and the one before it values[i - 1]
        trial = cost[None] + (below[1:, None] - below[None]) * values[:, None].astype(float) ** 2
        trial = np.where(np.arange(len(values) + 1)[None] <= np.arange(len(values))[:, None], trial, np.inf)
        back.append(np.argmin(trial, 1))
        cost = np.concatenate([[np.inf], np.min(trial, 1)])
    caps, at = [], len(values)
    for choice in reversed(back):
        caps.append(int(values[at - 1]))
        at = int(choice[at - 1])
    return tuple(reversed(caps))


def part_size(rows: int) -> int:
    """Rows that are computed at a time; divides `rows`."""
    few = FEW if jax.default_backend() == "cpu" else max(FEW, rows // PARTS)
    return max(n for n in range(1, min(few, rows) + 1) if rows % n == 0)


def padding(counts_B: np.ndarray, caps: tuple[int, ...]) -> tuple[float, float]:
    """Shares of the computed pairs of places, and of the places, that hold no atoms in a batch of these sizes."""
    counts = np.sort(counts_B)
    largest = counts.reshape(-1, part_size(len(counts)))[:, -1]
    places = np.repeat(np.asarray(caps)[np.searchsorted(caps, largest)], part_size(len(counts))).astype(float)
    return 1 - float(np.sum(counts.astype(float) ** 2) / np.sum(places**2)), 1 - float(
        counts.sum() / places.sum()
    )


@dataclasses.dataclass(frozen=True)
class Ragged:
    """caps: the sizes, increasing; the last is that of the padded rows.

    axes: of each array of rows that has axes of atoms, behind the row axis, their number.
    """

    caps: tuple[int, ...]
    axes: tuple[tuple[str, int], ...]

    def map(self, f: Function, model: Any, rows: Rows) -> jax.Array:
        """f(model, rows) [B, N, ...], where f gives [b, n, ...] for b rows at n places."""
        leaves, form = jax.tree.flatten(model)

        def whole(leaves: list, rows: Rows) -> jax.Array:
            return f(jax.tree.unflatten(form, leaves), rows)

        def in_parts(leaves: list, rows: Rows) -> jax.Array:
            def padded(out: jax.Array) -> jax.Array:
                return jnp.pad(out, [(0, 0), (0, self.caps[-1] - out.shape[1]), *[(0, 0)] * (out.ndim - 2)])

            order, parts, which = self._sorted(rows)
            at_sizes = [lambda part, n=n: padded(whole(leaves, self._cropped(part, n))) for n in self.caps]
            _, out = jax.lax.scan(
                lambda _, at: (None, jax.lax.switch(at[0], at_sizes, at[1])), None, (which, parts)
            )
            return out.reshape(-1, *out.shape[2:])[jnp.argsort(order)]

        return _on_each_device(unless_vmapped(in_parts, whole), leaves, rows, P("data"))

    def sum(self, f: Function, model: Any, rows: Rows) -> jax.Array:
        """The sum of f(model, rows), where f gives the sum over some rows [].

        It can be differentiated once, and by the model only. The gradient is computed together with the sum,
        part by part, so that nothing is kept of one part while the next is computed.
        """
        leaves, form = jax.tree.flatten(model)

        def value(leaves: list, rows: Rows) -> jax.Array:
            return f(jax.tree.unflatten(form, leaves), rows)

        def summed(whole: Callable, leaves: list, rows: Rows) -> Any:
            def in_parts(leaves: list, rows: Rows) -> Any:
                _, parts, which = self._sorted(rows)
                at_sizes = [lambda part, n=n: whole(leaves, self._cropped(part, n)) for n in self.caps]
                zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(whole, leaves, rows))

                def add(total: Any, at: tuple[jax.Array, Rows]) -> tuple[Any, None]:
                    return jax.tree.map(jnp.add, total, jax.lax.switch(at[0], at_sizes, at[1])), None

                return jax.lax.scan(add, zeros, (which, parts))[0]

            return _on_each_device(unless_vmapped(in_parts, whole), leaves, rows, P())

        @jax.custom_vjp
        def total(leaves: list, rows: Rows) -> jax.Array:
            return summed(value, leaves, rows)

        def forward(leaves: list, rows: Rows) -> tuple[jax.Array, list]:
            found, gradients = summed(jax.value_and_grad(value), leaves, rows)
            return found, [
                _placed(g, jax.typeof(x).sharding.spec) for g, x in zip(gradients, leaves, strict=True)
            ]

        def backward(gradients: list, scale: jax.Array) -> tuple[list, None]:
            return [scale * g for g in gradients], None

        total.defvjp(forward, backward)
        return total(leaves, rows)

    def _sorted(self, rows: Rows) -> tuple[jax.Array, Rows, jax.Array]:
        """The order of the rows by size, the rows in it in parts [parts, b, ...], and which cap holds each part."""
        order = jnp.argsort(rows["count"])
        size = part_size(len(order))
        parts = {k: x[order].reshape(-1, size, *x.shape[1:]) for k, x in rows.items()}
        which = jnp.searchsorted(jnp.asarray(self.caps), parts["count"][:, -1])
        return order, parts, jnp.minimum(which, len(self.caps) - 1)

    def _cropped(self, rows: Rows, size: int) -> Rows:
        """The rows at their first `size` places."""
        axes = dict(self.axes)
        return {k: x[:, *(slice(size),) * axes.get(k, 0)] for k, x in rows.items()}


def unless_vmapped(usual: Callable, mapped: Callable) -> Callable:
    """`usual`, and under `jax.vmap` over lanes `mapped`; the lanes may be split over a mesh axis."""
    f = custom_vmap(usual)

    @f.def_vmap
    def _(lanes: int, are_mapped: Any, *arguments: Any) -> tuple[Any, Any]:
        axes = jax.tree.map(lambda is_mapped: 0 if is_mapped else None, tuple(are_mapped))
        each = zip(jax.tree.leaves(arguments), jax.tree.leaves(are_mapped), strict=True)
        over = {jax.typeof(x).sharding.spec[0] for x, is_mapped in each if is_mapped} - {None}
        out = jax.vmap(mapped, axes, axis_size=lanes, spmd_axis_name=next(iter(over), None))(*arguments)
        return out, jax.tree.map(lambda _: True, out)

    return f


def _on_each_device(f: Callable, leaves: list, rows: Rows, out: P) -> Any:
    """f(leaves, rows) where a mesh is set: on each device with its rows and all weights, summed over them for P()."""
    if jax.sharding.get_abstract_mesh().empty:
        return f(leaves, rows)

    def local(leaves: list, rows: Rows) -> Any:
        found = f(leaves, rows)
        return jax.lax.psum(found, "data") if out == P() else found

    whole = [_placed(x, P()) for x in leaves]
    rows = {name: _placed(x, P("data")) for name, x in rows.items()}
    return jax.shard_map(local, in_specs=(P(), P("data")), out_specs=out, check_vma=False)(whole, rows)


def _placed(x: jax.Array, where: P) -> jax.Array:
    """x, moved where it has to be on the mesh."""
    return x if jax.sharding.get_abstract_mesh().empty else jax.sharding.reshard(x, where)
