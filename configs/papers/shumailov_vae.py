"""The VAE of "AI models collapse when trained on recursively generated data" (Shumailov et al. 2024, 2305.17493).

Published: MNIST, two convolutions of 64 and 128 channels with 4 x 4 kernels at stride 2 and their mirror image,
20 latent numbers, 647,081 parameters, cross-entropy + KL (beta = 1), Adam at 1e-3 with weight decay 1e-5, batches
of 256, 30 epochs; each generation is fitted on the decoder's means of the one before. The published curve is the
loss of the last epoch, ours the mean over the fit; it rises because the mean images that later generations are
fitted on are grey, and grey pixels cost nats under a Bernoulli likelihood however well they are known.

Unlike there, each generation's rows are drawn once and seen in every epoch, not drawn anew for each batch, and
weight decay is decoupled from Adam's scaling. accumulate is not in the paper.

    collapse run --config=configs/papers/shumailov_vae.py --workdir=runs/shumailov_vae
    collapse run --config=configs/papers/shumailov_vae.py:idx:mnist ...   (a folder with the files as MNIST ships)
"""

from ml_collections import ConfigDict

from collapse_jax.experiment import template

# Last training loss in nats per image; the paper's generation 0 is our generation 1.
PUBLISHED = ((1, 98.6), (2, 123.1), (3, 135.0), (4, 143.8), (5, 151.9), (6, 158.4))


def get_config(source: str = "tfds:mnist") -> ConfigDict:
    config = template("vae")
    config.name = "shumailov_vae"
    config.arms = {name: {"workflow": name} for name in ("replace", "accumulate")}
    config.generations = 6
    config.seeds = (0, 1)

    config.data.source = source
    config.data.validation = 0.0

    config.model.channels = (64, 128)
    config.model.kernel = 4
    config.model.output = "transposed"
    config.model.latent = 20
    config.model.likelihood = "bernoulli"
    config.sample.draw = "mean"

    config.train.epochs = 30
    config.train.batch_size = 256
    config.train.learning_rate = 1e-3
    config.train.schedule = "constant"
    config.train.warmup = 0.0
    config.train.b2 = 0.999
    config.train.weight_decay = 1e-5
    config.train.clip = 1e9
    label = "replace, last epoch (Shumailov 2024, released code)"
    config.reference = ({"label": label, "arm": "replace", "metric": "train_loss", "points": PUBLISHED},)
    return config
