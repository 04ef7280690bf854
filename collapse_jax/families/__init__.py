"""Families: the protocol between a kind of generative model and the chain, and the table of those there are.

The chain, the trainer and the lineage know a family only through `Family` and `Kind`. A new family is one
file here and one line in `KINDS`.
"""

import importlib
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import jax
import numpy as np
from flax import nnx

from collapse_jax.config import BadInput
from collapse_jax.data.records import Row, Spec
from collapse_jax.spelling import hint, likely

Batch = dict[str, jax.Array]
Rows = Iterable[Mapping[str, np.ndarray]]  # batches of rows; may be iterated again

KINDS = {
    "transformer": "collapse_jax.families.transformer",
    "vae": "collapse_jax.families.vae",
    "diffusion": "collapse_jax.families.diffusion",
    "conformation": "collapse_jax.families.conformation",
}


class Family(Protocol):
    """A generative model of rows. Instances are frozen and hashable, so that compiled programs are shared."""

    spec: Spec

    @property
    def items(self) -> tuple[str, int]:
        """What a row is made of and how many of them, e.g. ("tokens", 256): the unit of speed."""
        ...

    @property
    def units(self) -> Mapping[str, str]:
        """Unit of every metric that `derive` and `measure` name."""
        ...

    def init(self, rngs: nnx.Rngs) -> nnx.Module:
        """A model with fresh weights, sharded over the current mesh (traceable)."""
        ...

    def loss(
        self, model: nnx.Module, batch: Batch, key: jax.Array, progress: jax.Array
    ) -> tuple[jax.Array, jax.Array, dict]:
        """(sum of losses, their weight, auxiliary scalars) over a batch of rows (traceable).

        progress: share of the fit's steps that are done, in [0, 1).
        """
        ...

    def evaluate(self, model: nnx.Module, batch: Batch, row_weight_B: jax.Array, keys_B: jax.Array) -> dict:
        """metric -> (sum, weight) over the rows that weigh 1; holds "test_loss" (traceable).

        keys_B: a key per row, the same in every generation, so that generations differ by their models alone.
        """
        ...

    def derive(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The means of `evaluate` over a split and what follows from them."""
        ...

    def sample(self, model: nnx.Module, keys_B: jax.Array, rows_B: Batch) -> Batch:
        """One row a key, conditioned on what the family takes from the real rows (traceable).

        What the network decides comes in floating point, whole numbers too, and NaN where it gives nothing finite:
        who stores the rows refuses those and turns the others into the types of `spec`.
        """
        ...

    def measure(self, model: nnx.Module, samples: Rows, real: Rows, test: Rows) -> dict[str, float]:
        """What a generation is judged by beside its loss: its samples against real training and test rows."""
        ...

    def show(self, model: nnx.Module, samples: Row, real: Row, key: jax.Array) -> dict[str, Any]:
        """What people look at, for JSON: any of `lines`, `prompts`, `pictures`, `shares`, `histograms`.

        samples, real: some rows of each. key: the same in every generation of a seed, so that what a model
        draws from it can be compared. A picture is {"title", "png": base64, "pixelated"}; shares are
        {"title", "names", "values", "real"}; a histogram is {"title", "unit", "edges", "values", "real"}, its
        outermost bins holding what lies beyond.
        """
        ...


class Kind(Protocol):
    """The module of a family: its settings classes and how to build it.

    `Model`, `Data` and `Sample` are frozen settings; `prepare(data, store)` gives the real rows and
    `build(model, data, sample, dataset)` the family. Both raise `BadInput`.
    """

    Model: type
    Data: type
    Sample: type

    def prepare(self, data: Any, store: Any) -> Any: ...

    def build(self, model: Any, data: Any, sample: Any, dataset: Any) -> Family: ...


def kind(name: str) -> Any:
    """The module of the named family. Raises `BadInput`."""
    if name not in KINDS:
        raise BadInput(f"config.family={name!r} is not one of {', '.join(KINDS)}{hint(likely(name, KINDS))}")
    return importlib.import_module(KINDS[name])
