"""Documents into rows of text: split, learn a tokenizer, pack."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from collapse_jax import rng
from collapse_jax.config import BadInput, choice, identity, number, path, text
from collapse_jax.data import cache, packing, sources, tokenizers
from collapse_jax.data.dataset import SPLITS, TOKENIZER, Dataset
from collapse_jax.data.records import Row

VERSION = 2  # raise when the same settings and documents would give other rows
ENCODE_CHARACTERS = 4_000_000


@dataclass(frozen=True)
class TextData:
    """Real text and how it becomes rows.

    source: builtin:python_docs, text:GLOB, tfds:NAME[:SPLIT], hf:NAME[:SPLIT], or rows:DIR (a directory made
        by an earlier import; its own settings hold).
    separator: string between documents in text files; a file without it is one document.
    tokenizer, vocab_size: bytes (257 ids) or bpe learned from the training split (`vocab_size` ids).
    row_length: tokens in a row.
    packing: "packed" joins documents end to end, "document" gives each its own row.
    validation, test: shares of the documents held out, at least one document each.
    max_rows: at most so many training rows (0: all).
    data_dir: where tfds and hf keep their files.
    """

    source: str = path("builtin:python_docs")
    separator: str = text(tokenizers.SEPARATOR)
    tokenizer: str = choice("bpe", ("bytes", "bpe"))
    vocab_size: int = number(8000, 2)
    row_length: int = number(256, 2, 1 << 20)
    packing: str = choice("packed", ("packed", "document"))
    validation: float = number(0.1, 0.0, 0.9)
    test: float = number(0.1, 0.0, 0.9)
    seed: int = number(0, 0)
    max_rows: int = number(0, 0)
    data_dir: str = path("", identity=False)

    def problems(self) -> Iterator[str]:
        if wrong := sources.problem(self.source):
            yield wrong
        if self.tokenizer == "bpe" and self.vocab_size < tokenizers.MIN_BPE:
            yield (
                f"vocab_size={self.vocab_size} is too small for bpe: 256 bytes and a separator need "
                f"{tokenizers.MIN_BPE}"
            )
        if self.validation + self.test >= 1:
            yield f"validation={self.validation:g} and test={self.test:g} leave nothing to train on"


def prepare(settings: TextData, store: Path) -> Dataset:
    """The rows of the settings, from `store/data` when they are there and sound, made otherwise.

    Raises `BadInput` when the source, the settings or the disk do not allow it.
    """
    problems = list(settings.problems())
    if settings.row_length < 2:
        problems.append(f"row_length={settings.row_length} must be at least 2")
    if problems:
        raise BadInput("; ".join(problems))
    if settings.source.startswith("rows:"):
        return cache.given(settings.source, packing.row_spec(1, 1))
    documents = sources.documents(settings.source, settings.separator, settings.data_dir)
    return cache.obtain(store, _key(settings, documents), lambda draft: _fill(draft, settings, documents))


def _key(settings: TextData, documents: list[str]) -> str:
    """Hash of what determines the rows. Where documents came from does not matter, what they say does."""
    matter = identity(settings)
    for name in ("source", "separator", *(["vocab_size"] if settings.tokenizer == "bytes" else [])):
        del matter[name]
    return cache.key({"version": VERSION, **matter}, (document.encode() for document in documents))


def _fill(draft: cache.Draft, settings: TextData, documents: list[str]) -> dict[str, Any]:
    groups = split_documents(documents, settings)
    tokenizer = _tokenizer(settings, groups["train"])
    tokenizer.save(draft.path / TOKENIZER)
    draft.add(TOKENIZER)
    duplicates = len(documents) - len(set(documents))
    return {
        "source": settings.source,
        "settings": identity(settings),
        "spec": packing.row_spec(settings.row_length, tokenizer.vocab_size),
        "vocab_size": tokenizer.vocab_size,
        "separator_id": tokenizer.separator_id,
        "splits": {name: _write_split(draft, name, groups[name], tokenizer, settings) for name in SPLITS},
        "about": {
            "tokenizer": f"{settings.tokenizer}, {tokenizer.vocab_size:,} ids, separator {tokenizer.separator_id}"
        },
        "notes": [f"{duplicates:,} documents occur more than once"] if duplicates else [],
    }


def split_documents(documents: list[str], settings: TextData) -> dict[str, list[str]]:
    """Whole documents per split, shuffled once by `seed`. Raises `BadInput` for fewer than three."""
    count = len(documents)
    if count < 3:
        raise BadInput(
            f"{settings.source} has {count} document(s) and train, validation and test need one "
            "each; give more files or the separator between documents"
        )
    order = rng.host("documents", settings.seed).permutation(count)
    validation = min(max(1, round(settings.validation * count)), count - 2)
    test = min(max(1, round(settings.test * count)), count - 1 - validation)
    parts = np.split(order, [count - validation - test, count - test])
    return {name: [documents[i] for i in part] for name, part in zip(SPLITS, parts, strict=True)}


def _tokenizer(settings: TextData, train: list[str]) -> tokenizers.Tokenizer:
    if settings.tokenizer == "bytes":
        return tokenizers.ByteTokenizer()
    return tokenizers.BPETokenizer.train(train, settings.vocab_size)


def _write_split(
    draft: cache.Draft, name: str, documents: list[str], tokenizer: tokenizers.Tokenizer, settings: TextData
) -> dict[str, int]:
    """Write the shards of a split; its counts."""
    pack = packing.packed if settings.packing == "packed" else packing.one_per_row
    spec = packing.row_spec(settings.row_length, tokenizer.vocab_size)
    limit = settings.max_rows if name == "train" else 0
    counts = {"documents": len(documents), "rows": 0, "tokens": 0, "bytes": 0}
    counts |= {"truncated_documents": 0, "dropped_tokens": 0}

    def batches() -> Iterator[Row]:
        encoded = _encoded(documents, tokenizer)
        for chunk in pack(encoded, settings.row_length, tokenizer.separator_id, spec["tokens"][1]):
            keep = limit - counts["rows"] if limit else None
            rows = {key: values[:keep] for key, values in chunk.rows.items()}
            counts["rows"] += len(rows["length"])
            counts["tokens"] += int(rows["length"].sum())
            counts["bytes"] += int(tokenizer.token_bytes[rows["tokens"]].sum())  # padding has none
            counts["truncated_documents"] += chunk.truncated
            counts["dropped_tokens"] += chunk.dropped
            yield rows
            if limit and counts["rows"] == limit:
                return

    if not draft.write_split(name, spec, batches()):
        raise BadInput(
            f"{settings.source}: split {name!r} has too little text for one row of "
            f"{settings.row_length} tokens; lower row_length, raise its share, or use packing=document"
        )
    return counts


def _encoded(documents: list[str], tokenizer: tokenizers.Tokenizer) -> Iterator[list[np.ndarray]]:
    """Ids of the documents, some millions of characters at a time."""
    chunk, size = [], 0
    for document in documents:
        chunk.append(document)
        size += len(document)
        if size >= ENCODE_CHARACTERS:
            yield tokenizer.encode(chunk)
            chunk, size = [], 0
    if chunk:
        yield tokenizer.encode(chunk)
