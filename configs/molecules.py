"""Conformations of small molecules by diffusion, on real and on sampled ones: minutes on a laptop.

Conformers that RDKit makes of common small molecules, an equivariant network, and two workflows. With data of your
own: `--config=configs/molecules.py:npz:FILE` (or sdf:GLOB, xyz:GLOB, tfds:qm9, geom:DIR).
"""

from ml_collections import ConfigDict

from collapse_jax.experiment import template


def get_config(source: str = "builtin:molecules") -> ConfigDict:
    config = template("conformation")
    config.name = "molecules"
    config.arms = {name: {"workflow": name, "budget": "steps"} for name in ("replace", "accumulate")}
    config.generations = 4
    config.seeds = (0,)

    config.data.source = source
    config.data.max_atoms = 22

    config.model.hidden = 64
    config.model.local_layers = 2
    config.model.global_layers = 2
    config.model.noising.steps = 100
    config.model.noising.target = "v"
    config.sample.sampler = "heun"
    config.sample.steps = 12
    config.sample.held_out = 16

    config.train.epochs = 40
    config.train.batch_size = 64
    config.train.learning_rate = 3e-3
    config.train.weight_decay = 0.0
    config.train.b2 = 0.99
    config.train.ema = 0.99
    return config
