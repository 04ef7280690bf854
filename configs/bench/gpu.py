"""Language models that fill a GPU: `--config=configs/bench/gpu.py:gpt2_9m` (or `gpt2_124m`, `llama2_126m`).

bfloat16 computation, random tokens would do as well: the text only fills the rows.
"""

import dataclasses

from collapse_jax.config import template as settings
from collapse_jax.experiment import template
from collapse_jax.models.transformer import PRESETS


def get_config(name="gpt2_9m"):
    config = template("transformer")
    config.name = f"bench_{name}"
    preset = PRESETS[name]
    # the vocabulary is rounded up to a multiple of 128, as kernels like it
    vocabulary = -(-preset.vocab_size // 128) * 128
    parts = 8 if vocabulary > 16_384 else 1
    config.model = settings(
        dataclasses.replace(preset, dtype="bfloat16", vocab_size=vocabulary, loss_parts=parts)
    )
    config.data.row_length = min(preset.context, 1024) if name != "gpt2_9m" else 2048
    config.data.vocab_size = 8000
    config.sample.top_k = 0
    config.train.batch_size = 32
    config.writing.batch_size = 256
    config.evaluate.batch_size = 32
    config.arms = {"replace": {"workflow": "replace"}}
    config.seeds = (0,)
    return config
