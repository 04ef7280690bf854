"""The explicit device mesh ("data", "model"): rows are split over `data`, weights over `model`."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from collapse_jax.config import BadInput


def make(data: int = -1, model: int = 1) -> Mesh:
    """Make and set the mesh; `data = -1` takes the devices that `model` leaves. Raises `BadInput`."""
    devices = jax.device_count()
    if model < 1 or devices % model:
        raise BadInput(f"mesh.model={model} does not divide the {devices} devices; choose a divisor")
    data = devices // model if data == -1 else data
    if data < 1 or data * model > devices:
        raise BadInput(
            f"mesh {data} x {model} needs {data * model} devices but there are {devices}; use data=-1"
        )
    mesh = jax.make_mesh(
        (data, model),
        ("data", "model"),
        axis_types=(AxisType.Explicit,) * 2,
        devices=jax.devices()[: data * model],
    )
    jax.set_mesh(mesh)
    return mesh


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def rows(mesh: Mesh) -> NamedSharding:
    """Sharding of a batch: its leading row axis over `data`."""
    return NamedSharding(mesh, P("data"))
