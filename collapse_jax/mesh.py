"""The explicit device mesh ("data", "seed", "model"): rows, seeds and weights are split over its axes.

Which rows of a batch a process reads is what its devices hold of them (`held`), whatever the order of devices.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
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
    chosen = jax.devices()[:needed]
    idle = jax.process_count() - len({device.process_index for device in chosen})
    if idle:
        raise BadInput(
            f"mesh of {data} x {seed} x {model} (data, seed, model) leaves {idle} of the processes without a device; "
            "use data=-1, or start fewer"
        )
    mesh = Mesh(arranged((data, seed, model), chosen), AXES, axis_types=(AxisType.Explicit,) * 3)
    jax.set_mesh(mesh)
    split_weights(fsdp)
    return mesh


def arranged(shape: tuple[int, int, int], devices: Sequence[Any]) -> np.ndarray:
    """Devices [data, seed, model]: neighbours of the physical network are neighbours of the mesh.

    Several slices, which a slower network joins, divide `data`, else `seed`. Raises `BadInput`.
    """
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    over = next((i for i in (0, 1) if shape[i] % slices == 0), None)
    try:
        if slices == 1 or over is None:
            return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
        inside = [n // slices if i == over else n for i, n in enumerate(shape)]
        across = [slices if i == over else 1 for i in range(3)]
        return mesh_utils.create_hybrid_device_mesh(inside, across, devices, allow_split_physical_axes=True)
    except (AssertionError, NotImplementedError, ValueError) as error:
        data, seed, model = shape
        raise BadInput(
            f"mesh of {data} x {seed} x {model} (data, seed, model) cannot be laid over these {len(devices)} devices "
            f"in {slices} slices; choose sizes that divide them"
        ) from error


def check(mesh: Mesh | AbstractMesh, batches: Mapping[str, int]) -> None:
    """Raise `BadInput` unless the rows of every batch (setting -> rows) can be split over `data`."""
    ways = mesh.shape["data"]
    uneven = [f"{name}={size}" for name, size in batches.items() if size % ways]
    if uneven:
        raise BadInput(
            f"{', '.join(uneven)} cannot be split over the {ways} devices of the mesh axis data; "
            f"use a multiple of {ways}, or set config.mesh.data"
        )


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
    """Arrays split over the named axes. `local` is whole but for `data`, of which it has the rows `held` here."""
    where = NamedSharding(mesh, P(*axes))

    def one(x: Any) -> jax.Array:
        x = np.asarray(x)
        shape = [whole(mesh, n) if axis == "data" else n for n, axis in zip(x.shape, axes, strict=False)]
        return jax.make_array_from_process_local_data(where, x, (*shape, *x.shape[len(axes) :]))

    return jax.tree.map(one, local)


@lru_cache(maxsize=64)
def held(mesh: Mesh, size: int, process: int | None = None) -> np.ndarray:
    """Places, in order, of those of a batch's `size` rows that the devices of a process (this one) hold."""
    process = jax.process_index() if process is None else process
    where = rows(mesh).devices_indices_map((size,))
    slices = {at.indices(size)[:2] for device, (at,) in where.items() if device.process_index == process}
    places = np.concatenate([np.arange(first, stop) for first, stop in sorted(slices)])
    places.setflags(write=False)
    return places


def whole(mesh: Mesh, local: int) -> int:
    """Rows of the batch of which this process holds `local`."""
    ways = mesh.shape["data"]
    return local * ways // len(held(mesh, ways))
