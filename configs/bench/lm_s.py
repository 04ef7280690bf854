"""LM-S, the language model of the throughput comparison: `collapse bench --config=configs/bench/lm_s.py`.

6 layers, width 384, 6 heads, context 256, vocabulary 4096, 12M parameters; 16 rows a step, 64 rows sampled at
once. Sampled rows have 256 tokens like those trained on; `--config.data.row_length=200` draws 200 each.
"""

from ml_collections import ConfigDict

from collapse_jax.experiment import template


def get_config() -> ConfigDict:
    config = template("transformer")
    config.name = "bench_lm_s"
    config.arms = {"replace": {"workflow": "replace"}}
    config.seeds = (0,)

    config.data.source = "builtin:python_docs"
    config.data.vocab_size = 4096
    config.data.row_length = 256

    config.model.style = "gpt2"
    config.model.layers = 6
    config.model.width = 384
    config.model.heads = 6
    config.model.context = 256
    config.model.vocab_size = 4096

    config.train.batch_size = 16
    config.train.learning_rate = 3e-4
    config.writing.batch_size = 64
    return config
