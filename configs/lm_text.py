"""A small language model on any text: `collapse run --config=configs/lm_text.py:'text:stories/*.txt' --workdir=...`.

The text files hold documents separated by `<|endoftext|>`, or one document each.
"""

from ml_collections import ConfigDict

from collapse_jax.experiment import template


def get_config(source: str = "builtin:python_docs") -> ConfigDict:
    config = template("transformer")
    config.name = "lm_text"
    config.arms = {name: {"workflow": name} for name in ("replace", "accumulate_subsample", "accumulate")}
    config.generations = 6
    config.seeds = (0, 1)

    config.data.source = source
    config.data.vocab_size = 1024
    config.data.row_length = 128

    config.model.style = "gpt2"
    config.model.layers = 4
    config.model.width = 128
    config.model.heads = 4
    config.model.context = 128
    config.model.vocab_size = 1024

    config.train.epochs = 2
    config.train.batch_size = 32
    config.train.learning_rate = 2e-3
    return config
