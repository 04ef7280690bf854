"""The VAEs of CelebA in "Is Model Collapse Inevitable?" (Gerstgrasser et al. 2024, arXiv 2404.01413, section 2.3).

Published: a convolutional VAE of CelebA faces, fitted anew each generation on the samples of the last (replace)
or on all so far (accumulate), samples from N(0, I) through the decoder, test loss = reconstruction + KL on real
faces. Seen there: under replace the test error rises fast and samples end in a single mode; under accumulate it
rises too, much more slowly, and rare things (glasses) are lost from samples though not from reconstructions.

No numbers were published, so there is no reference curve. Our choices, because the paper does not say: 64 x 64
pixels of the middle of the image, the network, a fixed Gaussian noise level of 0.1 (white is 1), Adam 5e-4 with
a cosine decay, 10 epochs, 10 generations.

    collapse run --config=configs/papers/accumulate_vae.py --workdir=runs/accumulate_vae
    collapse run --config=configs/papers/accumulate_vae.py:'images:celeba/*.jpg' ...
"""

from ml_collections import ConfigDict

from collapse_jax.experiment import template


def get_config(source: str = "tfds:celeb_a") -> ConfigDict:
    config = template("vae")
    config.name = "accumulate_vae"
    config.arms = {name: {"workflow": name} for name in ("replace", "accumulate")}
    config.generations = 10
    config.seeds = (0,)

    config.data.source = source
    config.data.size = 64
    config.data.channels = 3
    config.data.features = "random"

    config.model.channels = (32, 64, 128, 256)
    config.model.kernel = 4
    config.model.norm = "group"
    config.model.latent = 128
    config.model.likelihood = "gaussian"
    config.model.scale = 0.1
    config.model.learn_scale = False
    config.model.kl_warmup = 0.1
    config.sample.draw = "mean"

    config.train.epochs = 10
    config.train.batch_size = 128
    config.train.learning_rate = 5e-4
    config.train.b2 = 0.999
    config.train.weight_decay = 0.0
    config.train.clip = 1e9
    config.writing.batch_size = 256
    config.evaluate.rows = 5000
    return config
