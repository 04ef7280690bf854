"""The MNIST diffusion models of "Self-Consuming Generative Models Go MAD" (Alemohammad et al., ICLR 2024, 2307.01850).

Class-conditional DDPM in T = 500 steps, labels hidden from 10 % of training rows, and classifier-free
guidance w as a sampling bias lambda = 1 / (1 + w) on every synthetic row. Published: 60,000 rows a generation,
20 generations; Frechet distance in the features of a LeNet, precision and recall. Three loops: fully synthetic
(replace) and synthetic augmentation (all real rows + the latest synthetic ones) of 60,000 rows, and

    --config=configs/papers/mad_mnist_ddpm.py:fresh

fresh data, 2,000 new real rows + 2,000 of the latest generation, beginning with 2,000 or (:fresh3k) 3,000.
With `--sweep` over lambda. Our choices, because we know of no published values: the network (a diffusion
transformer of 5.5M weights), DDPM's linear schedule with its betas doubled for half its steps, Adam 3e-4 with
a cosine decay over 20 epochs, averaged weights, and the values of lambda below 1.

    collapse run --config=configs/papers/mad_mnist_ddpm.py --workdir=runs/mad_mnist --sweep
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from collapse_jax.config import BadInput
from collapse_jax.experiment import template

LAMBDAS = (1.0, 0.9, 0.8, 0.7, 0.5)
LOOPS = {  # rows of generation 1, arms
    "full": (60_000, {"synthetic": {"workflow": "replace"}, "augment": {"workflow": "augment"}}),
    "fresh": (2000, {"fresh": {"workflow": "fresh"}}),
    "fresh3k": (3000, {"fresh": {"workflow": "fresh", "fraction": 2 / 3, "synthetic": 2 / 3}}),
}


def get_config(loop: str = "full") -> ConfigDict:
    if loop not in LOOPS:
        raise BadInput(f"loop {loop!r} is not one of {', '.join(LOOPS)}")
    config = template("diffusion")
    config.name = f"mad_mnist_ddpm-{loop}"
    config.rows, arms = LOOPS[loop]
    config.arms = arms
    config.generations = 20
    config.seeds = (0,)

    config.data.source = "tfds:mnist"
    config.data.validation = 0.0
    config.data.features = "classifier"

    config.model.patch = 4
    config.model.layers = 8
    config.model.width = 192
    config.model.heads = 6
    config.model.label_dropout = 0.1
    config.model.noising.steps = 500
    config.model.noising.schedule = "linear"
    config.model.noising.beta_first = 2e-4
    config.model.noising.beta_last = 0.04
    config.model.noising.variance = "posterior"
    config.sample.sampler = "ancestral"

    config.train.epochs = 20
    config.train.batch_size = 128
    config.train.learning_rate = 3e-4
    config.train.weight_decay = 0.0
    config.train.ema = 0.999
    return config


def sweep() -> Iterator[dict[str, Any]]:
    """The sampling bias lambda; 1 is none."""
    for bias in LAMBDAS:
        yield {"name": f"mad_mnist_ddpm-lambda{bias:g}", "sample.guidance": 1 / bias - 1}
