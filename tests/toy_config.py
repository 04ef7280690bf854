"""A chain experiment of the toy family that takes a second."""

from pathlib import Path
from sys import path

path.insert(0, str(Path(__file__).parent))

from collapse_jax import families

families.KINDS["toy"] = "toy"

from collapse_jax.experiment import template  # noqa: E402


def get_config():
    config = template("toy")
    config.name = "toy"
    config.arms = {
        name: {"workflow": name} for name in ("replace", "accumulate_subsample", "replace_multiple")
    }
    config.generations = 3
    config.seeds = (0, 1)
    config.train.batch_size = 16
    config.train.epochs = 3
    config.train.checkpoint_every = 7
    config.train.learning_rate = 0.05
    config.writing.batch_size = 16
    config.writing.rows_per_shard = 32
    return config


def sweep():
    return [{"sample.temperature": t} for t in (1.0, 0.5)]
