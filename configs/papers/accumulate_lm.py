"""Language models of "Is Model Collapse Inevitable?" (Gerstgrasser et al. 2024, arXiv 2404.01413, section 2.1).

Four transformers pretrained for one epoch on TinyStories and on what each generation samples from T = 1.0 or
0.3; accumulate_subsample and the long curves are from "Collapse or Thrive?" (Kazdan et al. 2025, arXiv
2410.16713). Published: vocabulary 8,000, context 2,048, one epoch, rows sampled = rows of the real data.
Our choices, because neither paper gives them: AdamW 3e-4 with cosine decay, batch 32 (from 66,234 steps an
epoch), one story a row, 8 heads for 256 and 512 wide models and 12 for 768.

    collapse run --config=configs/papers/accumulate_lm.py --workdir=runs/accumulate_lm --sweep
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from collapse_jax.config import product
from collapse_jax.experiment import template
from collapse_jax.models.transformer import PRESETS

MODELS = ("gpt2_9m", "llama2_12m", "llama2_42m", "llama2_126m")

# Test cross-entropy in nats/token by generation, read off the figures of Kazdan et al. 2025.
GENERATIONS = (1, 2, 3, 4, 5, 10, 20, 30, 40)
PUBLISHED = {
    ("gpt2_9m", "replace"): (1.815, 2.072, 2.205, 2.304, 2.394, 2.790, 3.602, 4.436, 5.294),
    ("llama2_12m", "replace"): (2.057, 2.349, 2.488, 2.577, 2.652, 2.892, 3.167, 3.345, 3.525),
    ("llama2_42m", "replace"): (1.863, 2.138, 2.250, 2.334, 2.407, 2.648, 2.949, 3.163, 3.349),
    ("llama2_126m", "replace"): (1.710, 1.953, 2.065, 2.141, 2.220, 2.451, 2.755, 2.982, 3.173),
    ("gpt2_9m", "accumulate_subsample"): (1.816, 1.908, 1.958, 1.995, 2.023, 2.099, 2.172, 2.211, 2.238),
    ("llama2_12m", "accumulate_subsample"): (2.056, 2.143, 2.200, 2.233, 2.263, 2.341, 2.411, 2.450, 2.475),
    ("llama2_42m", "accumulate_subsample"): (1.863, 1.941, 1.989, 2.023, 2.047, 2.119, 2.186),
    ("llama2_126m", "accumulate_subsample"): (1.708, 1.780, 1.826, 1.856, 1.879, 1.948, 2.009, 2.042),
    ("gpt2_9m", "accumulate"): (1.815, 1.781, 1.777, 1.779, 1.782, 1.796),
    ("llama2_12m", "accumulate"): (2.057, 1.998, 1.986, 1.983, 1.984, 1.990),
    ("llama2_42m", "accumulate"): (1.863, 1.808, 1.796, 1.791, 1.791, 1.794),
    ("llama2_126m", "accumulate"): (1.710, 1.661, 1.649, 1.645, 1.643, 1.643),
}
# Table 2 of Gerstgrasser et al. 2024; its t = 4 is our generation 5, its t = 10 our generation 11.
MULTIPLE = ((1, 1.82), (5, 2.18))
COLD = {"replace": ((1, 1.82), (5, 5.82), (11, 9.85)), "accumulate": ((1, 1.82), (5, 1.75))}


def get_config(model: str = "gpt2_9m") -> ConfigDict:
    config = template("transformer")
    config.name = f"accumulate_lm-{model}"
    config.arms = {
        name: {"workflow": name}
        for name in ("replace", "replace_multiple", "accumulate_subsample", "accumulate")
    }
    config.generations = 5
    config.seeds = (0,)

    config.data.source = "hf:roneneldan/TinyStories"
    config.data.vocab_size = 8000
    config.data.row_length = 2048
    config.data.packing = "document"

    choose(config, model)
    config.model.dtype = "bfloat16"
    config.sample.temperature = 1.0
    # The released code starts each sample with the first token of a real story.
    config.sample.prompt_tokens = 1

    config.train.epochs = 1
    config.train.batch_size = 32
    config.train.learning_rate = 3e-4
    config.reference = published(model, 1.0)
    return config


def choose(config: Any, model: str) -> None:
    """Take the sizes of a preset."""
    preset = PRESETS[model]
    for name in ("style", "layers", "width", "heads", "context", "vocab_size"):
        config.model[name] = getattr(preset, name)


def published(model: str, temperature: float) -> tuple[dict[str, Any], ...]:
    """The published curves of a model at a temperature."""
    if temperature == 0.3 and model == "gpt2_9m":
        return tuple(
            {
                "label": f"{arm}, T = 0.3 (Gerstgrasser 2024)",
                "arm": arm,
                "metric": "test_loss",
                "points": points,
            }
            for arm, points in COLD.items()
        )
    if temperature != 1.0:
        return ()
    curves = tuple(
        {"label": f"{arm} (Kazdan 2025)", "arm": arm, "metric": "test_loss",
         "points": tuple(zip(GENERATIONS, values, strict=False))}
        for (name, arm), values in PUBLISHED.items() if name == model
    )  # fmt: skip

    if model == "gpt2_9m":
        label = "replace_multiple (Gerstgrasser 2024)"
        curves += ({"label": label, "arm": "replace_multiple", "metric": "test_loss", "points": MULTIPLE},)
    return curves


def sweep() -> Iterator[dict[str, Any]]:
    """Four models at T = 1.0 and 0.3."""
    for point in product(model=MODELS, temperature=(1.0, 0.3)):
        name, temperature = point["model"], point["temperature"]
        preset = PRESETS[name]
        yield {
            "name": f"accumulate_lm-{name}-T{temperature}",
            **{f"model.{k}": getattr(preset, k) for k in ("style", "layers", "width", "heads")},
            "sample.temperature": temperature,
            "reference": published(name, temperature),
        }
