"""The diffusion models of molecules in "Is Model Collapse Inevitable?" (Gerstgrasser et al. 2024, arXiv 2404.01413).

GeoDiff (Xu et al. 2022) on 40,000 conformations of drug-like molecules from GEOM-Drugs, under replace and
accumulate for 8 generations; its weighted variational bound on real test conformations. Published: under replace
the loss worsens in the first synthetic generation and little after, under accumulate it stays.
From GeoDiff's released configuration for GEOM-Drugs: 4 local and 6 global layers of 128 units, edges up to three
bonds apart and within 10 Å, T = 5000 with betas from 1e-7 to 2e-3 by a sigmoid, positions in Å, Adam 1e-3 with
beta_1 = 0.95, batch 32; 50 diffusion steps in sampling from the collapse paper. Our choices, because the papers
give no value or we do it otherwise: the local layers feed the global ones where GeoDiff adds two networks, ten
epochs with a cosine decay in place of a decay on plateaus, averaged weights, DDIM for the 50 steps.

GEOM's msgpack file goes where `data.source` points:

    collapse run --config=configs/papers/accumulate_geodiff.py:geom:DIR --workdir=runs/accumulate_geodiff
"""

from ml_collections import ConfigDict

from collapse_jax.experiment import template


def get_config(source: str = "geom:data/geom_drugs") -> ConfigDict:
    config = template("conformation")
    config.name = "accumulate_geodiff"
    config.arms = {name: {"workflow": name} for name in ("replace", "accumulate")}
    config.generations = 8
    config.seeds = (0,)
    config.rows = 40_000

    config.data.source = source
    config.data.conformations = 5
    config.data.max_rows = 40_000

    config.model.hidden = 128
    config.model.local_layers = 4
    config.model.global_layers = 6
    config.model.cutoff = 10.0
    config.model.unit = 1.0
    config.model.remat = "full"
    config.model.noising.steps = 5000
    config.model.noising.schedule = "sigmoid"
    config.model.noising.beta_first = 1e-7
    config.model.noising.beta_last = 2e-3
    config.model.noising.target = "epsilon"
    config.model.noising.variance = "posterior"
    config.sample.sampler = "ddim"
    config.sample.steps = 50
    config.sample.held_out = 200

    config.train.epochs = 10
    config.train.batch_size = 32
    config.train.learning_rate = 1e-3
    config.train.b1 = 0.95
    config.train.b2 = 0.999
    config.train.weight_decay = 0.0
    config.train.ema = 0.999
    return config
