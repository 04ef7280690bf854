"""Variational autoencoders of real handwritten digits, on their own samples: three workflows, minutes on a laptop.

The 8 x 8 scans that scikit-learn ships, a small convolutional VAE with a Gaussian likelihood of fixed width; samples
are its means given latent vectors from the prior.
"""

from ml_collections import ConfigDict

from collapse_jax.experiment import template


def get_config() -> ConfigDict:
    config = template("vae")
    config.name = "vae_digits"
    config.arms = {name: {"workflow": name} for name in ("replace", "accumulate_subsample", "accumulate")}
    config.generations = 5
    config.seeds = (0, 1)

    config.data.source = "builtin:digits"

    config.model.channels = (32, 64)
    config.model.latent = 16
    config.model.likelihood = "gaussian"
    config.model.scale = 0.25
    config.model.learn_scale = False

    config.train.epochs = 15
    config.train.batch_size = 32
    config.train.learning_rate = 2e-3
    config.train.weight_decay = 0.0
    config.train.clip = 1e6
    return config
