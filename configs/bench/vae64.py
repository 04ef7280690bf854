"""A VAE of 64 x 64 colour images at the shapes of many published ones.

Channels 32 to 256, 128 latent numbers, batch 64; 2,363,043 parameters. The pictures only fill the rows: scans of
digits, enlarged, unless a source is given, e.g. `--config=configs/bench/vae64.py:npz:noto_emoji_64.npz:x`.
"""

from ml_collections import ConfigDict

from collapse_jax.experiment import template


def get_config(source: str = "builtin:digits") -> ConfigDict:
    config = template("vae")
    config.name = "bench-vae64"
    config.arms = {"replace": {"workflow": "replace"}}
    config.generations = 1
    config.seeds = (0,)

    config.data.source = source
    config.data.size = 64
    config.data.channels = 3
    config.data.features = "random"

    config.model.channels = (32, 64, 128, 256)
    config.model.kernel = 3
    config.model.latent = 128
    config.model.likelihood = "gaussian"
    config.model.scale = 0.5**0.5  # squared error + KL
    config.model.learn_scale = False

    config.train.batch_size = 64
    config.train.weight_decay = 0.0
    config.writing.batch_size = 64
    return config
