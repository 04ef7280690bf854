"""The shapes of an equivariant denoiser of 30 atoms, all joined: 4 layers of 64 units, batch 32.

With real molecules of up to 30 atoms; those that have fewer are computed at the smallest of a few sizes.
"""

from ml_collections import ConfigDict

from collapse_jax.experiment import template


def get_config(source: str = "builtin:molecules") -> ConfigDict:
    config = template("conformation")
    config.name = "bench-egnn"
    config.arms = {"replace": {"workflow": "replace"}}
    config.generations = 1
    config.seeds = (0,)

    config.data.source = source
    config.data.max_atoms = 30

    config.model.hidden = 64
    config.model.local_layers = 0
    config.model.global_layers = 4
    config.model.cutoff = 0.0
    config.model.radial = 0
    config.model.noising.steps = 1000
    config.model.noising.target = "epsilon"
    config.sample.sampler = "ddim"
    config.sample.steps = 20

    config.train.batch_size = 32
    config.train.weight_decay = 0.0
    config.writing.batch_size = 32
    return config
