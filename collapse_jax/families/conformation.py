"""The conformation family: a diffusion model of the atoms' positions given the molecular graph.

GeoDiff (Xu et al. 2022): positions without their centre of mass are noised and an equivariant network undoes it,
so that the density of a conformation does not depend on where it lies, how it is turned or mirrored, or how its
atoms are numbered. A synthetic row has the graph of the real row that it is sampled for and positions of its own.

The bound is on the density in the 3 (n - 1) dimensions that remain of n atoms' positions, in Å: it may be
negative, and comparing it with another work's needs the same dimensions and the same unit.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec as P

from collapse_jax import rng
from collapse_jax.config import BadInput, number
from collapse_jax.data.dataset import Dataset
from collapse_jax.data.molecules import MoleculeData, row_spec
from collapse_jax.data.molecules import prepare as prepare
from collapse_jax.data.records import Row, RowSource, Spec
from collapse_jax.families import Batch, Rows
from collapse_jax.measures import molecule_pictures, molecules
from collapse_jax.models.diffusion import (
    Level,
    Noising,
    aim,
    bound_terms,
    corrupt,
    draw_times,
    level_at,
    lookup,
    split,
    training_weights,
)
from collapse_jax.models.equivariant import EquivariantConfig, EquivariantDenoiser, centred
from collapse_jax.models.layers import placed
from collapse_jax.models.ragged import Ragged, choose_caps
from collapse_jax.sampling.denoise import Denoising, denoise, problems, start

Data = MoleculeData

GRAPH = ("atoms", "charges", "bonds", "count")
ATOM_AXES = (("atoms", 1), ("charges", 1), ("bonds", 2), ("noised", 1), ("aim", 1))
SCALED = 4096  # training rows from which the unit is taken
HELD_OUT = "held_out_"
DRAWN = 32

UNITS = {
    "test_loss": "nats/dim",
    "bound_steps": "nats/dim",
    "bound_decoder": "nats/dim",
    **molecules.UNITS,
    **{HELD_OUT + name: unit for name, unit in molecules.UNITS.items()},
}


@dataclasses.dataclass(frozen=True)
class Model(EquivariantConfig):
    """The network and the process that it inverts."""

    noising: Noising = Noising(steps=200)

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        yield from self.noising.problems()


@dataclasses.dataclass(frozen=True)
class Sample(Denoising):
    """How conformations are drawn, and how many to judge a generation by molecules that none was fitted on.

    held_out, conformations: the first so many held-out molecules (0: none) get so many conformations each.
    """

    held_out: int = number(32, 0, 100_000)
    conformations: int = number(10, 1, 10_000)


@dataclasses.dataclass(frozen=True)
class ConformationFamily:
    """Conformations by diffusion. unit: Å of the diffused coordinates' unit. caps: as in `models.ragged`."""

    model: Model
    sampling: Sample
    unit: float
    caps: tuple[int, ...]

    @property
    def spec(self) -> Spec:
        return row_spec(self.caps[-1])

    @property
    def items(self) -> tuple[str, int]:
        return "conformations", 1

    @property
    def units(self) -> Mapping[str, str]:
        return UNITS

    @property
    def ragged(self) -> Ragged:
        return Ragged(self.caps, ATOM_AXES)

    def init(self, rngs: nnx.Rngs) -> EquivariantDenoiser:
        return EquivariantDenoiser(self.model, rngs)

    def _start(self, batch: Batch) -> jax.Array:
        """x_0 [B, N, 3]: the positions in the noise's unit, without their centre of mass."""
        return centred(batch["positions"], batch["count"]) / self.unit

    def _output(self, model: Any, rows: Batch) -> jax.Array:
        """What the noising's target asks for [B, N, 3], of rows with "noised", "signal" and "sigma"."""
        x_t, signal_B, sigma_B = rows["noised"], rows["signal"], rows["sigma"]
        v = model(rows, x_t, signal_B, sigma_B, self.unit)
        level = Level(signal_B[:, None, None], sigma_B[:, None, None])
        return aim(*split(v, x_t, level, "v"), level, self.model.noising.target)

    def _predict(self, model: Any, graph: Batch, x_t: jax.Array, t: jax.Array) -> jax.Array:
        """The output for x_t [B, N, 3]; t is [B] or one time for all rows []."""
        t_B = jnp.broadcast_to(t, graph["count"].shape, out_sharding=jax.typeof(graph["count"]).sharding)
        level = level_at(self.model.noising, t_B, 1)
        rows = {**graph, "noised": x_t, "signal": level.signal, "sigma": level.sigma}
        return self.ragged.map(self._output, model, rows)

    def loss(
        self, model: Any, batch: Batch, key: jax.Array, progress: jax.Array
    ) -> tuple[jax.Array, jax.Array, dict]:
        """(weighted squared error per dimension summed over rows, rows, {}): GeoDiff's eq. 4."""
        noising, graph = self.model.noising, _graph(batch)
        key_t, key_noise = jax.random.split(key)
        t_B = draw_times(key_t, len(batch["count"]), noising)
        x_0 = self._start(batch)
        noise = jax.random.normal(key_noise, x_0.shape, out_sharding=placed("data", None, None))
        noise = centred(noise, graph["count"])
        level = level_at(noising, t_B, 3)
        rows = {
            **graph,
            "noised": corrupt(x_0, noise, level),
            "aim": aim(x_0, noise, level, noising.target),
            "signal": level.signal[:, 0, 0],
            "sigma": level.sigma[:, 0, 0],
            "weight": lookup(training_weights(noising), t_B) / _dims(graph),
        }

        def errors(model: Any, rows: Batch) -> jax.Array:
            error_B = jnp.sum((self._output(model, rows) - rows["aim"]) ** 2, (1, 2))
            return jnp.sum(error_B * rows["weight"])

        return self.ragged.sum(errors, model, rows), jnp.float32(len(t_B)), {}

    def evaluate(self, model: Any, batch: Batch, row_weight_B: jax.Array, keys_B: jax.Array) -> dict:
        """The variational bound in nats and the dimensions that it is for, and its two learned terms."""
        graph = _graph(batch)
        dims_B = _dims(graph)
        terms = bound_terms(
            lambda x_t, t: self._predict(model, graph, x_t, t),
            self._start(batch),
            keys_B,
            self.model.noising,
            project=lambda x: centred(x, graph["count"]),
            dims_B=dims_B,
        )
        weight_B = row_weight_B.astype(jnp.float32)
        total = jnp.sum(weight_B * dims_B)

        def mean(nats_B: jax.Array) -> tuple[jax.Array, jax.Array]:
            return jnp.sum(nats_B * weight_B), total

        return {
            "test_loss": mean(
                terms["prior"] + terms["steps"] + terms["decoder"] + dims_B * math.log(self.unit)
            ),
            "bound_steps": mean(terms["steps"]),
            "bound_decoder": mean(terms["decoder"]),
        }

    def derive(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The means as they are."""
        return dict(metrics)

    def sample(self, model: Any, keys_B: jax.Array, rows_B: Batch) -> Batch:
        """One conformation a key, of the molecule of the real row."""
        graph = _graph(rows_B)

        def project(x: jax.Array) -> jax.Array:
            return centred(x, graph["count"])

        x = denoise(
            lambda x_t, t: self._predict(model, graph, x_t, t),
            start(keys_B, rows_B["positions"].shape[1:], project),
            keys_B,
            self.model.noising,
            self.sampling,
            project=project,
        )
        return {**rows_B, "positions": x * self.unit}

    def measure(self, model: Any, samples: Rows, real: Rows, test: Rows) -> dict[str, float]:
        """The samples against the training rows of their molecules, and what the model gives for others."""
        found = molecules.measure(samples, real)
        rows = self._repeated(test)
        if rows is not None:
            drawn = _drawn(self, model, rng.key("held_out"), rows)
            found |= {HELD_OUT + name: value for name, value in molecules.measure([drawn], test).items()}
        return found

    def _repeated(self, test: Rows) -> Row | None:
        """A row of each of the first `held_out` molecules, `conformations` times."""
        some: dict[int, Row] = {}
        for batch in test:
            for at, molecule in enumerate(batch["molecule"].tolist()):
                if molecule not in some and len(some) < self.sampling.held_out:
                    some[molecule] = {name: values[at, ...] for name, values in batch.items()}
            if len(some) == self.sampling.held_out:
                break
        if not some:
            return None
        times = self.sampling.conformations
        return {
            name: np.repeat(np.stack([row[name] for row in some.values()]), times, 0) for name in self.spec
        }

    def show(self, model: Any, samples: Row, real: Row, key: jax.Array) -> dict[str, Any]:
        """Molecules of the real rows, conformations drawn for them from the same noise, and bond lengths."""
        few = {name: values[: molecule_pictures.COLUMNS] for name, values in real.items()}
        picture = molecule_pictures.gallery(few, {"sampled": _drawn(self, model, key, few)})
        return {
            "lines": molecule_pictures.lines(few),
            "pictures": [{"title": "Conformations (same noise)", "png": picture, "pixelated": False}],
            "histograms": molecules.histograms([samples], [real]),
        }


def _graph(rows_B: Batch) -> Batch:
    """What the network is told of the molecules."""
    return {name: rows_B[name] for name in GRAPH}


def _dims(graph: Batch) -> jax.Array:
    """Dimensions [B] of positions without centre of mass."""
    return 3.0 * jnp.maximum(graph["count"] - 1, 1)


def _drawn(family: ConformationFamily, model: Any, key: jax.Array, rows: Mapping[str, np.ndarray]) -> Row:
    """A conformation for each of the rows, on the host; one program, which takes some tens at a time, draws all."""
    count, ways = len(rows["count"]), jax.sharding.get_abstract_mesh().shape.get("data", 1)
    keys = jax.random.split(key, count)
    size = -(-DRAWN // ways) * ways
    places = np.arange(-(-count // size) * size).reshape(-1, size) % count
    parts = [_draw(family, model, keys[at], {k: x[at] for k, x in rows.items()}) for at in places]
    whole = jax.tree.map(lambda *xs: np.concatenate(xs), *jax.device_get(parts))
    return {name: x[:count] for name, x in whole.items()}


@jax.jit(static_argnums=0)
def _draw(family: ConformationFamily, model: Any, keys_B: jax.Array, rows_B: Batch) -> Batch:
    """`sample` of rows that are on every device."""
    if jax.sharding.get_abstract_mesh().empty:
        return family.sample(model, keys_B, rows_B)
    spread = jax.tree.map(lambda x: jax.sharding.reshard(x, P("data")), (keys_B, rows_B))
    return jax.tree.map(lambda x: jax.sharding.reshard(x, P()), family.sample(model, *spread))


def build(model: Model, data: MoleculeData, sample: Sample, dataset: Dataset) -> ConformationFamily:
    """The family for these rows. Raises `BadInput` where model, sampling and rows do not fit each other."""
    if lines := problems(model.noising, sample):
        raise BadInput("; ".join(lines))
    sizes = np.array(
        [n for split in dataset.info["sizes"].values() for n, rows in split for _ in range(rows)]
    )
    unit = model.unit
    if not unit:
        rows = dataset.rows("train")
        unit = typical_coordinate(rows)
        rows.close()
    return ConformationFamily(model, sample, unit, choose_caps(sizes))


def typical_coordinate(rows: RowSource) -> float:
    """Root mean square of the coordinates of the first rows in Å, to three digits."""
    some = rows.read(0, min(SCALED, len(rows)))
    square = np.sum(some["positions"].astype(float) ** 2) / (3 * np.sum(some["count"] - 1))
    return float(f"{math.sqrt(square):.3g}")
