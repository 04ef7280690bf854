"""Documents into rows: split, learn a tokenizer, pack, write shards; made once and reused by content.

The directory `store/data/<key>` is named by the hash of the settings and of all documents. Its manifest is
written last and the whole directory is renamed into place, so what is there is complete.
"""

import hashlib
import itertools
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from collapse_jax import rng
from collapse_jax.config import BadInput, choice, identity, number, text
from collapse_jax.data import packing, sources, tokenizers
from collapse_jax.data.dataset import (
    MANIFEST,
    SPLITS,
    TOKENIZER,
    Dataset,
    content_digest,
    describe,
    open_dataset,
)
from collapse_jax.data.records import Row, ShardWriter, Spec, shard_name
from collapse_jax.files import sha256

__all__ = ["Dataset", "TextData", "describe", "open_dataset", "prepare", "write_shards"]

VERSION = 1  # raise when the same settings and documents would give other rows
ROWS_PER_SHARD = 65_536
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

    source: str = text("builtin:python_docs")
    separator: str = text(tokenizers.SEPARATOR)
    tokenizer: str = choice("bpe", ("bytes", "bpe"))
    vocab_size: int = number(8000, 2)
    row_length: int = number(256, 2, 1 << 20)
    packing: str = choice("packed", ("packed", "document"))
    validation: float = number(0.1, 0.0, 0.9)
    test: float = number(0.1, 0.0, 0.9)
    seed: int = number(0, 0)
    max_rows: int = number(0, 0)
    data_dir: str = text("", identity=False)

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

    A damaged directory is set aside as `<key>.damaged-N`, with a line on stderr, and made again. Raises
    `BadInput` when the source, the settings or the disk do not allow it.
    """
    problems = list(settings.problems())
    if settings.row_length < 2:
        problems.append(f"row_length={settings.row_length} must be at least 2")
    if problems:
        raise BadInput("; ".join(problems))
    if settings.source.startswith("rows:"):
        return _given(Path(settings.source.removeprefix("rows:")).expanduser())
    documents = sources.documents(settings.source, settings.separator, settings.data_dir)
    key = _key(settings, documents)
    path = Path(store) / "data" / key[:20]
    try:
        return _reuse(path, key) or _make(settings, documents, key, path)
    except OSError as error:
        raise BadInput(f"{error}; free some space or choose another directory than {store}") from error


def _given(path: Path) -> Dataset:
    dataset = open_dataset(path)
    if problems := dataset.verify():
        more = f" (and {len(problems) - 1} more)" if problems[1:] else ""
        raise BadInput(f"{problems[0]}{more}; import the data again")
    return dataset


def _key(settings: TextData, documents: list[str]) -> str:
    """Hash of what determines the rows. Where documents came from does not matter, what they say does."""
    matter = identity(settings)
    for name in ("source", "separator", *(["vocab_size"] if settings.tokenizer == "bytes" else [])):
        del matter[name]
    digest = hashlib.sha256(json.dumps({"version": VERSION, **matter}, sort_keys=True).encode())
    for document in documents:
        raw = document.encode()
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()


def _reuse(path: Path, key: str) -> Dataset | None:
    """The sound data set at `path`; None when there is none, after setting aside a damaged one."""
    if not path.exists():
        return None
    try:
        dataset = open_dataset(path)
        problems = dataset.verify()
        if dataset.info.get("key") != key:
            problems.append(f"{path / MANIFEST} belongs to other data")
    except BadInput as error:
        dataset, problems = None, [str(error)]
    if not problems:
        return dataset
    names = (path.with_name(f"{path.name}.damaged-{n}") for n in itertools.count(1))
    aside = next(name for name in names if not name.exists())
    path.rename(aside)
    print(
        f"collapse: {problems[0]}; {len(problems)} problem(s), set aside as {aside}, making the data again",
        file=sys.stderr,
        flush=True,
    )
    return None


def _make(settings: TextData, documents: list[str], key: str, path: Path) -> Dataset:
    partial = path.with_name(f"{path.name}.partial")
    if partial.exists():  # left by a killed process
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
        _fill(partial, settings, documents, key)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    os.rename(partial, path)
    return open_dataset(path)


def _fill(partial: Path, settings: TextData, documents: list[str], key: str) -> None:
    groups = split_documents(documents, settings)
    tokenizer = _tokenizer(settings, groups["train"])
    tokenizer.save(partial / TOKENIZER)
    saved = partial / TOKENIZER
    files: dict[str, Any] = {TOKENIZER: {"bytes": saved.stat().st_size, "sha256": sha256(saved)}}
    spec = packing.row_spec(settings.row_length, tokenizer.vocab_size)
    splits = {}
    for name in SPLITS:
        limit = settings.max_rows if name == "train" else 0
        splits[name], shards = _write_split(partial, name, groups[name], tokenizer, settings, spec, limit)
        files |= shards
    info = {
        "version": VERSION,
        "key": key,
        "digest": content_digest(spec, files),
        "source": settings.source,
        "settings": identity(settings),
        "spec": spec,
        "tokenizer": settings.tokenizer,
        "vocab_size": tokenizer.vocab_size,
        "separator_id": tokenizer.separator_id,
        "duplicates": len(documents) - len(set(documents)),
        "splits": splits,
        "files": files,
    }
    _write_json(partial / MANIFEST, info)


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
    directory: Path,
    name: str,
    documents: list[str],
    tokenizer: tokenizers.Tokenizer,
    settings: TextData,
    spec: Spec,
    limit: int,
) -> tuple[dict[str, int], dict[str, Any]]:
    """Write the shards of a split; its counts and the manifest entries of its files."""
    pack = packing.packed if settings.packing == "packed" else packing.one_per_row
    counts = {"documents": len(documents)}
    counts |= dict.fromkeys(("rows", "tokens", "bytes", "truncated", "dropped_tokens"), 0)
    (directory / name).mkdir()
    batches = []
    encoded, dtype = _encoded(documents, tokenizer), spec["tokens"][1]
    for chunk in pack(encoded, settings.row_length, tokenizer.separator_id, dtype):
        keep = min(len(chunk.rows["length"]), limit - counts["rows"]) if limit else None
        rows = {key: values[:keep] for key, values in chunk.rows.items()}
        counts["rows"] += len(rows["length"])
        counts["tokens"] += int(rows["length"].sum())
        counts["bytes"] += int(tokenizer.token_bytes[rows["tokens"]].sum())  # padding has none
        counts["truncated"] += chunk.truncated
        counts["dropped_tokens"] += chunk.dropped
        batches.append(rows)
        if limit and counts["rows"] == limit:
            break
    if not counts["rows"]:
        raise BadInput(
            f"{settings.source}: split {name!r} has too little text for one row of "
            f"{settings.row_length} tokens; lower row_length, raise its share, or use packing=document"
        )
    return counts, write_shards(directory, name, batches, spec)


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


def write_shards(directory: Path, split: str, batches: list[Row], spec: Spec) -> dict[str, Any]:
    """Write batches of rows as the shards of `directory/split`; the manifest entry of each file."""
    rows = {name: np.concatenate([batch[name] for batch in batches]) for name in spec}
    count = len(next(iter(rows.values())))
    total = -(-count // ROWS_PER_SHARD)
    entries = {}
    for index in range(total):
        name = f"{split}/{shard_name(index, total)}"
        part = slice(index * ROWS_PER_SHARD, (index + 1) * ROWS_PER_SHARD)
        with ShardWriter(directory / name, spec) as writer:
            writer.write_batch({key: values[part] for key, values in rows.items()})
            entries[name] = writer.close()._asdict()
    return entries


def _write_json(path: Path, content: Any) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
