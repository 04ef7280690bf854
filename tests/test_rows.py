"""Rows and hosts: on any slice every row of a batch is read by exactly the hosts whose devices hold it."""

import os

os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # topologies are no devices, which only one process may have
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")

import jax
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from collapse_jax import mesh as meshes
from collapse_jax.config import BadInput

SLICES = [
    ("v5e:4x4", (16, 1, 1)), ("v5e:4x4", (4, 1, 4)), ("v5e:4x4", (8, 1, 2)), ("v5e:4x4", (8, 2, 1)),
    ("v5e:4x4", (2, 1, 8)), ("v5e:4x4", (1, 1, 16)), ("v5e:8x8", (64, 1, 1)), ("v5e:8x8", (16, 1, 4)),
    ("v5e:16x16", (256, 1, 1)), ("v5e:16x16", (64, 1, 4)), ("v5e:16x16", (32, 1, 8)), ("v5e:16x16", (128, 2, 1)),
    ("v6e:8x8", (64, 1, 1)), ("v6e:8x8", (16, 1, 4)), ("v5p:2x2x2", (8, 1, 1)), ("v5p:2x2x4", (16, 1, 1)),
    ("v5p:2x2x4", (4, 1, 4)), ("v5p:4x4x4", (64, 1, 1)), ("v5e:2x4", (8, 1, 1)),
]  # fmt: skip
SEVERAL = [("v5e:4x4", (32, 1, 1)), ("v5e:4x4", (1, 32, 1)), ("v5e:4x4", (8, 1, 4))]


def laid(name, shape, **options):
    """The mesh of a TPU slice's devices, which need not be there."""
    pytest.importorskip("libtpu", reason="libtpu, which knows the topologies of TPU slices, is not installed")
    devices = topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices
    return Mesh(meshes.arranged(shape, devices), meshes.AXES, axis_types=(AxisType.Explicit,) * 3)


@pytest.mark.parametrize(("name", "shape"), SLICES)
def test_every_host_of_a_slice_reads_the_rows_it_holds(name, shape):
    mesh = laid(name, shape)
    rows, holders = 2 * shape[0], {}
    for (part, *_), device in np.ndenumerate(mesh.devices):
        for row in (2 * part, 2 * part + 1):
            holders.setdefault(row, set()).add(device.process_index)
    readers = {row: set() for row in range(rows)}
    for process in {device.process_index for device in mesh.devices.flat}:
        held = meshes.held(mesh, rows, process).tolist()
        assert held == sorted(held)
        for row in held:
            readers[row].add(process)
    assert readers == holders


def test_hosts_of_a_slice_are_not_neighbours_on_the_data_axis():
    """Why rows cannot follow from the number of a process."""
    mesh = laid("v5e:4x4", (16, 1, 1))
    assert meshes.held(mesh, 16, 0).tolist() == [0, 1, 6, 15]


@pytest.mark.parametrize(("name", "shape"), SEVERAL)
def test_several_slices_divide_rows_or_seeds_but_never_weights(name, shape):
    mesh = laid(name, shape, num_slices=2)
    slices = np.vectorize(lambda device: device.slice_index)(mesh.devices)
    assert slices.shape == shape and len(set(slices.flat)) == 2
    assert (slices == slices[:, :, :1]).all()
    assert (slices == np.sort(slices, 0 if shape[0] > 1 else 1)).all()


def test_a_mesh_that_slices_do_not_divide_is_refused_in_one_line():
    with pytest.raises(BadInput, match=r"1 x 1 x 32 .* 2 slices"):
        laid("v5e:4x4", (1, 1, 32), num_slices=2)


@pytest.mark.parametrize(("batches", "line"), [
    ({"train.batch_size": 12}, r"train.batch_size=12 cannot .* multiple of 8"),
    ({"train.batch_size": 16, "evaluate.batch_size": 4, "writing.batch_size": 9}, "evaluate.batch_size=4, writing"),
])  # fmt: skip
def test_batches_that_the_data_axis_does_not_divide_are_refused(batches, line):
    mesh = jax.sharding.AbstractMesh((8, 1, 1), meshes.AXES)
    meshes.check(mesh, {"train.batch_size": 24})
    with pytest.raises(BadInput, match=line):
        meshes.check(mesh, batches)
