"""A small language model on any text: `collapse run --config=configs/lm_text.py:'text:stories/*.txt' --workdir=...`.

The text files hold documents separated by `<|endoftext|>`, or one document each.
"""

from ml_collections import ConfigDict

from collapse_jax.experiment import template


def get_config(source: str = "builtin:python_docs") -> ConfigDict:
    config = template("transformer")
    config.name = "lm_text"
    config.arms = {name: {"workflow": name} for name in ("replace", "accumulate_subsample", "accumulate")}
    config.generations = 5
    config.seeds = (0, 1, 2)
    config.rows = 1200

    config.data.source = source
    config.data.vocab_size = 1024
    config.data.row_length = 96

    config.model.style = "llama2"
    config.model.layers = 2
    config.model.width = 96
    config.model.heads = 4
    config.model.context = 96
    config.model.vocab_size = 1024

    config.train.epochs = 3
    config.train.batch_size = 8
    config.train.learning_rate = 4e-3
    return config
