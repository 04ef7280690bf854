"""Diffusion models of real handwritten digits, on their own samples: three workflows, minutes on a laptop.

The 8 x 8 scans that scikit-learn ships, a small class-conditional diffusion transformer, samples by the
probability flow in few steps.
"""

from ml_collections import ConfigDict

from collapse_jax.experiment import template


def get_config() -> ConfigDict:
    config = template("diffusion")
    config.name = "diffusion_digits"
    config.arms = {name: {"workflow": name} for name in ("replace", "accumulate_subsample", "accumulate")}
    config.generations = 5
    config.seeds = (0, 1)

    config.data.source = "builtin:digits"

    config.model.patch = 4
    config.model.layers = 2
    config.model.width = 64
    config.model.noising.target = "v"
    config.model.noising.variance = "forward"
    config.sample.sampler = "heun"
    config.sample.steps = 8

    config.train.epochs = 8
    config.train.batch_size = 32
    config.train.learning_rate = 1e-2
    config.train.ema = 0.98
    config.train.weight_decay = 0.0
    return config
