"""The transformer family: a language model of text rows, and how it is built from settings and data.

The model is one of whole rows: it reads the start token and all tokens but the last, and predicts every
token. Real and synthetic rows have the same form, and sampling a row is the same chain of predictions.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from collapse_jax.config import BadInput
from collapse_jax.data import packing
from collapse_jax.data.dataset import Dataset
from collapse_jax.data.records import Row, Spec
from collapse_jax.data.text import TextData
from collapse_jax.data.text import prepare as prepare
from collapse_jax.data.tokenizers import Tokenizer
from collapse_jax.families import Batch, Rows
from collapse_jax.measures import text
from collapse_jax.models.transformer import Transformer, TransformerConfig, shifted
from collapse_jax.sampling.decode import RowForm, Sampling, generate

Model, Data, Sample = TransformerConfig, TextData, Sampling

UNITS = {
    "test_loss": "nats/token",
    "perplexity": "tokens",
    "bits_per_byte": "bits/byte",
    **text.UNITS,
}


@dataclasses.dataclass(frozen=True)
class TransformerFamily:
    """A language model of rows {"tokens": [L], "length": [], "prompt": []} (see `data.packing`).

    Positions from `length` on carry no loss, and none those of the prompt of a sampled row, but for fits on it where
    `sampling.prompt_loss` says so.

    documents: whether a row is one document, which ends at its separator. ids: tokens that the tokenizer has.
    tokens_per_byte: of the real test text.
    """

    model: TransformerConfig
    sampling: Sampling
    row_length: int
    separator_id: int
    ids: int
    documents: bool
    tokens_per_byte: float
    tokenizer: Tokenizer = dataclasses.field(compare=False, repr=False)

    @property
    def spec(self) -> Spec:
        return packing.row_spec(self.row_length, self.ids)

    @property
    def items(self) -> tuple[str, int]:
        return "tokens", self.row_length

    @property
    def units(self) -> Mapping[str, str]:
        return UNITS

    def init(self, rngs: nnx.Rngs) -> Transformer:
        return Transformer(self.model, rngs)

    def _losses(self, model: Any, batch: Batch, prompts: bool) -> tuple[jax.Array, jax.Array]:
        """Nats [B, T] of every token, 0 where none counts, and how many count in each row [B].

        prompts: whether those of prompts count.
        """
        tokens_BT = batch["tokens"].astype(jnp.int32)
        losses_BT = model.losses(shifted(tokens_BT, self.separator_id), tokens_BT)
        begin_B = jnp.zeros_like(batch["prompt"]) if prompts else batch["prompt"]
        at = jnp.arange(tokens_BT.shape[1])
        counts_BT = (begin_B[:, None] <= at) & (at < batch["length"][:, None])
        return jnp.where(counts_BT, losses_BT, 0.0), batch["length"] - begin_B

    def loss(
        self, model: Any, batch: Batch, key: jax.Array, progress: jax.Array
    ) -> tuple[jax.Array, jax.Array, dict]:
        """(nats, tokens, {}) summed over the batch."""
        losses_BT, counts_B = self._losses(model, batch, prompts=self.sampling.prompt_loss)
        return losses_BT.sum(), counts_B.sum().astype(jnp.float32), {}

    def evaluate(self, model: Any, batch: Batch, row_weight_B: jax.Array, keys_B: jax.Array) -> dict:
        """Nats and tokens of the rows that weigh 1."""
        losses_BT, counts_B = self._losses(model, batch, prompts=False)
        weight_B = row_weight_B.astype(jnp.float32)
        return {"test_loss": (jnp.sum(losses_BT.sum(1) * weight_B), jnp.sum(counts_B * weight_B))}

    def derive(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The loss in nats/token, its exponential, and the loss in bits per byte of text."""
        loss = metrics["test_loss"]
        bits = loss * self.tokens_per_byte / math.log(2)
        return {**metrics, "perplexity": math.exp(min(loss, 700.0)), "bits_per_byte": bits}

    def sample(self, model: Any, keys_B: jax.Array, rows_B: Batch) -> Batch:
        """One row a key, continuing the first `sampling.prompt_tokens` tokens of the real rows."""
        stop = self.separator_id if self.documents else -1
        form = RowForm(self.row_length, self.separator_id, stop, self.ids)
        prompt_BP = rows_B["tokens"][:, : self.sampling.prompt_tokens]
        tokens_BT = generate(model, keys_B, prompt_BP, form, self.sampling)
        length_B = jnp.minimum(jnp.sum(jnp.cumsum(tokens_BT == stop, 1) == 0, 1) + 1, self.row_length)
        drawn_BT = jnp.where(tokens_BT < 0, jnp.nan, tokens_BT.astype(jnp.float32))  # exact below 2^24
        return {
            "tokens": drawn_BT,
            "length": length_B,
            "prompt": jnp.minimum(length_B, self.sampling.prompt_tokens),
        }

    def measure(self, model: Any, samples: Rows, real: Rows, test: Rows) -> dict[str, float]:
        """Diversity of the samples, the share of the real rows' rare tokens that they hold, and copies of real rows."""
        return text.measure(samples, real, self.ids)

    def show(self, model: Any, samples: Row, real: Row, key: jax.Array) -> dict[str, Any]:
        """The texts of the samples, and of their prompts where they have such."""

        def texts(ends: np.ndarray) -> list[str]:
            rows = zip(samples["tokens"], ends, strict=True)
            return [self.tokenizer.decode(tokens[: int(end)]) for tokens, end in rows]

        prompts = {"prompts": texts(samples["prompt"])} if self.sampling.prompt_tokens else {}
        return {"lines": texts(samples["length"]), **prompts}


def build(model: TransformerConfig, data: TextData, sample: Sampling, dataset: Dataset) -> TransformerFamily:
    """The family for these rows. Raises `BadInput` where model, sampling and rows do not fit each other."""
    length = dataset.spec["tokens"][0][0]
    ids = dataset.info["vocab_size"]
    problems = []
    if model.context < length:
        problems.append(f"model.context={model.context} is shorter than the rows; set it to {length}")
    if model.vocab_size < ids:
        problems.append(f"model.vocab_size={model.vocab_size} is below the tokenizer's {ids} ids; raise it")
    if length % model.loss_parts:
        problems.append(
            f"model.loss_parts={model.loss_parts} does not divide the rows of {length}; choose a divisor"
        )
    if sample.prompt_tokens > length:
        problems.append(f"sample.prompt_tokens={sample.prompt_tokens} exceeds the row length {length}")
    parts = jax.sharding.get_abstract_mesh().shape.get("model", 1)
    split = {"key heads": model.key_heads, "hidden units": model.hidden, "vocabulary": model.vocab_size}
    for name, size in split.items():
        if size % parts:
            problems.append(
                f"mesh.model={parts} does not divide the model's {size} ({name}); choose a divisor"
            )
    if problems:
        raise BadInput("; ".join(problems))
    counts = dataset.info["splits"]["test"]
    return TransformerFamily(
        model,
        sample,
        length,
        dataset.info["separator_id"],
        ids,
        dataset.info["settings"]["packing"] == "document",
        counts["tokens"] / max(counts["bytes"], 1),
        dataset.tokenizer,
    )
