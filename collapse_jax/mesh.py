"""The explicit device mesh ("data", "seed", "model"): rows, seeds and weights are split over its axes.

`data` comes first, so that with several processes each holds whole rows of every seed.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from collapse_jax.config import BadInput

AXES = ("data", "seed", "model")
_weights_over_data = False


def make(data: int = -1, model: int = 1, seed: int = 1, fsdp: bool = False) -> Mesh:
    """Make and set the mesh; `data = -1` takes the devices that the others leave. Raises `BadInput`.

    fsdp: weights and optimizer are split over `data` as well and gathered where they are used.
    """
    devices = jax.device_count()
    for name, ways in (("model", model), ("seed", seed)):
        if ways < 1 or devices % ways:
            raise BadInput(f"mesh.{name}={ways} does not divide the {devices} devices; choose a divisor")
    data = devices // (model * seed) if data == -1 else data
    needed = seed * data * model
    if needed < 1 or needed > devices:
        raise BadInput(
            f"mesh of {data} x {seed} x {model} (data, seed, model) does not fit {devices} devices; use data=-1"
        )
    mesh = jax.make_mesh(
        (data, seed, model), AXES, axis_types=(AxisType.Explicit,) * 3, devices=jax.devices()[:needed]
    )
    jax.set_mesh(mesh)
    split_weights(fsdp)
    return mesh


def planned(data: int = -1, model: int = 1, seed: int = 1, fsdp: bool = False) -> Mesh | AbstractMesh:
    """The mesh of these sizes: of the devices there are, else one to check shapes on. Raises `BadInput`."""
    if max(data, 1) * model * seed <= jax.device_count():
        return make(data, model, seed, fsdp)
    mesh = AbstractMesh((max(data, 1), seed, model), AXES, axis_types=(AxisType.Explicit,) * 3)
    split_weights(fsdp)
    return mesh


def split_weights(fsdp: bool) -> None:
    """Whether weights declared from now on are split over `data` too."""
    global _weights_over_data
    _weights_over_data = fsdp


def weight_axes(shape: tuple[int, ...], axes: tuple[str | None, ...]) -> tuple[str | None, ...]:
    """The axes of a weight, its largest free dimension over `data` where weights are split that way."""
    ways = jax.sharding.get_abstract_mesh().shape.get("data", 1)
    free = [i for i, axis in enumerate(axes) if axis is None and shape[i] % ways == 0]
    if not _weights_over_data or len(shape) < 2 or not free:
        return axes
    largest = max(free, key=lambda i: shape[i])
    return tuple("data" if i == largest else axis for i, axis in enumerate(axes))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def rows(mesh: Mesh) -> NamedSharding:
    """Sharding of a batch [B, ...]: its rows over `data`."""
    return NamedSharding(mesh, P("data"))


def place(mesh: Mesh, local: Any, *axes: str | None) -> Any:
    """Arrays split over the named axes, from the part of them that this process has read."""
    where = NamedSharding(mesh, P(*axes))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(where, np.asarray(x)), local)


def reader(mesh: Mesh) -> tuple[int, int]:
    """(index, count): this process reads part `index` of `count` of every batch."""
    mine = {
        at[0] for at, device in np.ndenumerate(mesh.devices) if device.process_index == jax.process_index()
    }
    return min(mine) // len(mine), mesh.shape["data"] // len(mine)
