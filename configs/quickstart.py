"""Three workflows on Python's own documentation: replace collapses, accumulate holds. Minutes on a laptop."""

from ml_collections import ConfigDict

from collapse_jax.experiment import template


def get_config() -> ConfigDict:
    config = template("transformer")
    config.name = "quickstart"
    config.arms = {name: {"workflow": name} for name in ("replace", "accumulate_subsample", "accumulate")}
    config.generations = 5
    config.seeds = (0, 1)
    config.rows = 1000

    config.data.source = "builtin:python_docs"
    config.data.vocab_size = 512
    config.data.row_length = 64

    config.model.style = "llama2"
    config.model.layers = 2
    config.model.width = 64
    config.model.heads = 4
    config.model.context = 64
    config.model.vocab_size = 512

    config.train.epochs = 2
    config.train.batch_size = 8
    config.train.learning_rate = 6e-3
    config.train.dispatch = 25
    return config
