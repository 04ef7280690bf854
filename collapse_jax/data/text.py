"""Documents into rows of text: split, learn a tokenizer, pack."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from collapse_jax import rng
from collapse_jax.config import BadInput, choice, identity, number, path, text
from collapse_jax.data import cache, packing, sources, tokenizers
from collapse_jax.data.dataset import SPLITS, TOKENIZER, Dataset
from collapse_jax.data.records import Row

VERSION = 3  # raise when the same settings and documents would give other rows
ENCODE_CHARACTERS = 4_000_000


@dataclass(frozen=True)
class TextData:
    """Real text and how it becomes rows.

    source: builtin:python_docs, text:FILE_DIR_OR_GLOB, tfds:NAME[:SPLIT], hf:NAME[[:CONFIGURATION]:SPLIT], or
        rows:DIR (a directory made by an earlier import; its own settings hold). SPLIT may be sliced: train[:50%].
    column: of a tfds or hf table that holds the text; "": text, content or document, or the only text column.
    separator: string between documents in text files, in which \\n may stand for a line break; a file without it
        is one document. A text that has the usual separator nowhere is split into its paragraphs or lines.
    tokenizer, vocab_size: bytes (257 ids) or bpe learned from the training split (`vocab_size` ids).
    row_length: tokens in a row.
    packing: "packed" joins documents end to end, "document" gives each its own row.
    validation, test: shares of the documents held out, at least one each; copies of a document, but for case
        and blanks, lie in one split.
    max_rows: at most so many training rows (0: all).
    data_dir: where tfds and hf keep their files.
    """

    source: str = path("builtin:python_docs")
    column: str = text("")
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
    corpus = sources.documents(settings.source, settings.separator, settings.data_dir, settings.column)
    return cache.obtain(store, _key(settings, corpus), lambda draft: _fill(draft, settings, corpus))


def _key(settings: TextData, corpus: sources.Corpus) -> str:
    """Hash of what determines the rows and what is told of them. Where documents came from does not matter, what
    they say does."""
    matter = identity(settings)
    for name in ("source", "column", "separator", *(["vocab_size"] if settings.tokenizer == "bytes" else [])):
        del matter[name]
    told = {"about": corpus.about, "notes": corpus.notes}
    return cache.key({"version": VERSION, **matter, **told}, (document.encode() for document in corpus.texts))


def _fill(draft: cache.Draft, settings: TextData, corpus: sources.Corpus) -> dict[str, Any]:
    groups = split_documents(corpus.texts, settings)
    tokenizer = _tokenizer(settings, groups["train"])
    tokenizer.save(draft.path / TOKENIZER)
    draft.add(TOKENIZER)
    writer = _Writer(draft, tokenizer, settings)
    counts = {name: writer.split(name, groups[name]) for name in SPLITS}
    copies = len(corpus.texts) - len(set(_contents(corpus.texts)))
    return {
        "source": settings.source,
        "settings": identity(settings),
        "spec": writer.spec,
        "vocab_size": tokenizer.vocab_size,
        "separator_id": tokenizer.separator_id,
        "splits": counts,
        "about": corpus.about
        | {
            "tokenizer": f"{settings.tokenizer}, {tokenizer.vocab_size:,} ids, separator {tokenizer.separator_id}"
        },
        "notes": [
            *corpus.notes,
            *(
                [f"documents that are copies of others: {copies:,}; they lie in the same split"]
                if copies
                else []
            ),
            *_left_out(settings, counts),
        ],
        "warnings": [
            f"{n:,} of {counts[name]['rows']:,} {name} rows are also training rows; the loss on them is no loss "
            "on new text"
            for name in SPLITS[1:]
            if (n := counts[name]["copies_of_training_rows"])
        ],
    }


def _left_out(settings: TextData, counts: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """What is in no row, in words."""

    def total(name: str) -> int:
        return sum(split[name] for split in counts.values())

    cut, dropped = total("truncated_documents"), total("dropped_tokens")
    if cut:
        share = dropped / (total("tokens") + dropped)
        yield (
            f"documents longer than a row, cut: {cut:,} of {total('documents'):,}; {share:.1%} of the tokens are in "
            "no row: raise row_length, or set packing=packed"
        )
    elif dropped:
        ends = ", ".join(f"{name} {n:,}" for name in counts if (n := counts[name]["dropped_tokens"]))
        yield f"tokens at the end that fill no row, left out: {ends}"
    if settings.max_rows and counts["train"]["rows"] == settings.max_rows:
        yield f"training text beyond max_rows={settings.max_rows:,} is left out"


def split_documents(documents: list[str], settings: TextData) -> dict[str, list[str]]:
    """Whole documents per split, shuffled once by `seed`, the copies of one in one split.

    Raises `BadInput` for fewer than three different ones.
    """
    order = rng.host("documents", settings.seed).permutation(len(documents))
    contents = _contents(documents)
    place: dict[bytes, int] = {}  # of each different document among them, in this order
    for i in order:
        place.setdefault(contents[i], len(place))
    count = len(place)
    if count < 3:
        raise BadInput(
            f"{settings.source} has {count} document(s) and train, validation and test need one "
            "each; give more files or the separator between documents"
        )
    validation = min(max(1, round(settings.validation * count)), count - 2)
    test = min(max(1, round(settings.test * count)), count - 1 - validation)
    ends = np.array([count - validation - test, count - test])
    split = np.searchsorted(ends, [place[contents[i]] for i in order], side="right")
    return {name: [documents[i] for i in order[split == k]] for k, name in enumerate(SPLITS)}


def _contents(documents: list[str]) -> list[bytes]:
    """What says of each document which are its copies: they differ in case and blanks at most."""
    plain = (" ".join(document.split()).casefold() for document in documents)
    return [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in plain]


def _tokenizer(settings: TextData, train: list[str]) -> tokenizers.Tokenizer:
    if settings.tokenizer == "bytes":
        return tokenizers.ByteTokenizer()
    return tokenizers.BPETokenizer.train(train, settings.vocab_size)


class _Writer:
    """Writes the splits of a data set, training first, and counts what is in them and what is not."""

    def __init__(self, draft: cache.Draft, tokenizer: tokenizers.Tokenizer, settings: TextData):
        self.draft, self.tokenizer, self.settings = draft, tokenizer, settings
        self.spec = packing.row_spec(settings.row_length, tokenizer.vocab_size)
        self.trained = np.zeros(0, np.uint64)  # digests of the training rows

    def split(self, name: str, documents: list[str]) -> dict[str, int]:
        """Write the shards of a split; its counts."""
        settings, tokenizer = self.settings, self.tokenizer
        pack = packing.packed if settings.packing == "packed" else packing.one_per_row
        limit = settings.max_rows if name == "train" else 0
        counts = {"documents": len(documents), "rows": 0, "tokens": 0, "bytes": 0}
        counts |= {"truncated_documents": 0, "dropped_tokens": 0}
        digests = []

        def batches() -> Iterator[Row]:
            encoded = _encoded(documents, tokenizer)
            dtype = self.spec["tokens"][1]
            for chunk in pack(encoded, settings.row_length, tokenizer.separator_id, dtype):
                keep = limit - counts["rows"] if limit else None
                rows = {key: values[:keep] for key, values in chunk.rows.items()}
                counts["rows"] += len(rows["length"])
                counts["tokens"] += int(rows["length"].sum())
                counts["bytes"] += int(tokenizer.token_bytes[rows["tokens"]].sum())  # padding has none
                counts["truncated_documents"] += chunk.truncated
                counts["dropped_tokens"] += chunk.dropped
                digests.append(packing.digests(rows))
                yield rows
                if limit and counts["rows"] == limit:
                    return

        if not self.draft.write_split(name, self.spec, batches()):
            raise BadInput(
                f"{settings.source}: split {name!r} has too little text for one row of "
                f"{settings.row_length} tokens; lower row_length, raise its share, or use packing=document"
            )
        if name == "train":
            self.trained = np.unique(np.concatenate(digests))
            return counts
        copies = int(np.isin(np.concatenate(digests), self.trained).sum())
        return {**counts, "copies_of_training_rows": copies}


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
