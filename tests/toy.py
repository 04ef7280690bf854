"""The smallest family: rows of independent symbols from one distribution, so the chain is tested without a network.

Its exact maximum likelihood fit is the table of frequencies, its test loss the cross-entropy.
"""

import dataclasses
import hashlib
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from collapse_jax import rng
from collapse_jax.config import number
from collapse_jax.data.records import RowSource, ShardWriter

LENGTH = 8


@dataclasses.dataclass(frozen=True)
class Model:
    symbols: int = number(16, 2)


@dataclasses.dataclass(frozen=True)
class Data:
    rows: int = number(96, 1)
    symbols: int = number(16, 2)


@dataclasses.dataclass(frozen=True)
class Sample:
    temperature: float = number(1.0, 0.01)


@dataclasses.dataclass(frozen=True)
class Dataset:
    path: Path
    digest: str
    counts: dict

    @property
    def info(self) -> dict:
        return {"source": "toy", "splits": {name: {"rows": rows} for name, rows in self.counts.items()}}

    def rows(self, split: str) -> RowSource:
        return RowSource([(self.path / f"{split}.array_record", self.counts[split])], SPEC)


SPEC = {"x": ((LENGTH,), "int32")}
UNITS = {"test_loss": "nats/symbol", "entropy": "nats/symbol"}


class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, symbols: int):
        where = None if jax.sharding.get_abstract_mesh().empty else jax.P(None)
        draw = jax.random.normal(rngs.params(), (symbols,), out_sharding=where)
        self.logits = nnx.Param(0.1 * draw)


@dataclasses.dataclass(frozen=True)
class Toy:
    model: Model
    temperature: float

    spec = SPEC
    units = UNITS
    items = ("symbols", LENGTH)

    def init(self, rngs):
        return Net(rngs, self.model.symbols)

    def _losses(self, model, batch):
        chosen = jax.nn.one_hot(batch["x"], self.model.symbols)
        return -chosen @ jax.nn.log_softmax(model.logits[...])

    def loss(self, model, batch, key, progress):
        losses = self._losses(model, batch)
        return jnp.sum(losses), jnp.float32(losses.size), {}

    def evaluate(self, model, batch, row_weight_B, keys_B):
        losses = self._losses(model, batch).mean(1)
        return {"test_loss": (jnp.sum(losses * row_weight_B), jnp.sum(row_weight_B))}

    def derive(self, metrics):
        return dict(metrics)

    def sample(self, model, keys_B, rows_B):
        draw = partial(jax.random.categorical, shape=(LENGTH,))
        logits = model.logits[...] / self.temperature
        return {"x": jax.vmap(lambda key: draw(key, logits))(keys_B).astype(jnp.int32)}

    def measure(self, model, samples, real, test):
        symbols = np.concatenate([b["x"].ravel() for b in samples])
        counts = np.bincount(symbols, minlength=self.model.symbols)
        share = counts[counts > 0] / counts.sum()
        return {"entropy": float(-np.sum(share * np.log(share)))}

    def show(self, model, samples, real, key):
        return {"lines": [" ".join(map(str, row)) for row in samples["x"]]}


def prepare(data: Data, store: Path) -> Dataset:
    name = hashlib.sha256(repr(data).encode()).hexdigest()[:20]
    path = store / "toy" / name
    path.mkdir(parents=True, exist_ok=True)
    weights = 1.0 / np.arange(1, data.symbols + 1)
    counts = {"train": data.rows, "test": 33}
    for split, rows in counts.items():
        drawn = rng.host("toy", rows).choice(data.symbols, (rows, LENGTH), p=weights / weights.sum())
        if not (path / f"{split}.array_record").exists():
            with ShardWriter(path / f"{split}.array_record", SPEC) as writer:
                writer.write_batch({"x": drawn.astype(np.int32)})
    return Dataset(path, name, counts)


def build(model: Model, data: Data, sample: Sample, dataset: Dataset) -> Toy:
    return Toy(model, sample.temperature)
