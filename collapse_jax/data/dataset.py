"""A prepared data set: shards of rows per split, their tokenizer, and the manifest that vouches for them."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from collapse_jax.config import BadInput
from collapse_jax.data import tokenizers
from collapse_jax.data.records import RowSource, Spec, spec_from_json, spec_to_json
from collapse_jax.files import canonical, matches, unsealed

SPLITS = ("train", "validation", "test")
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Dataset:
    """A data directory that has a manifest.

    digest: identity of its content (spec and files), for the recipes of generations.
    info: what the manifest says: `splits` (name -> counts, of which `rows`), `files`, `key`, `source`,
        `settings`, for people `about` (title -> words), `notes` and `warnings` (sentences), and what its kind of
        data adds: text has `vocab_size` and `separator_id`, and counts `tokens` (that are scored) and `bytes` (of text
        they stand for) in each split.
    """

    path: Path
    digest: str
    spec: Spec
    info: dict[str, Any]

    def rows(self, split: str) -> RowSource:
        """Open the rows of "train", "validation" or "test"; close the result after use."""
        files = self.info["files"]
        names = sorted(name for name in files if name.startswith(f"{split}/"))
        if not names:
            known = ", ".join(self.info["splits"])
            raise BadInput(f"data {self.path} has no split {split!r}; there are {known}")
        return RowSource([(self.path / name, files[name]["rows"]) for name in names], self.spec)

    def row_count(self, split: str) -> int:
        return self.info["splits"][split]["rows"]

    @cached_property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """The tokenizer of the rows."""
        return tokenizers.load(self.path / TOKENIZER)

    def bits_per_byte(self, nats_per_token: float, split: str = "test") -> float:
        """Loss in nats/token of a split as bits per UTF-8 byte of its text."""
        counts = self.info["splits"][split]
        return nats_per_token * counts["tokens"] / counts["bytes"] / math.log(2)

    def verify(self) -> list[str]:
        """Hash every file again; one line for each that is missing, damaged or not in the manifest."""
        listed = self.info["files"]
        present = {str(p.relative_to(self.path)) for p in self.path.rglob("*") if p.is_file()}
        problems = [f"{self.path / name} is missing" for name in sorted(listed.keys() - present)]
        problems += [
            f"{self.path / name} is not in the manifest"
            for name in sorted(present - listed.keys() - {MANIFEST})
        ]
        problems += [
            f"{self.path / name} does not match its sha256"
            for name in sorted(listed.keys() & present)
            if not matches(self.path / name, listed[name])
        ]
        return problems


def content_digest(spec: Spec, files: Mapping[str, Mapping[str, Any]]) -> str:
    """Hash over the spec (in its order) and the sha256 of every file by name."""
    content = {"spec": spec_to_json(spec), "files": {name: file["sha256"] for name, file in files.items()}}
    return hashlib.sha256(canonical(content)).hexdigest()


def open_dataset(path: Path) -> Dataset:
    """The data set in a directory. Raises `BadInput` when its manifest is missing, damaged or not sealed."""
    path = Path(path)
    if not (path / MANIFEST).exists():
        raise BadInput(f"{path} has no {MANIFEST}, so it holds no rows; make them with collapse import")
    try:
        info = unsealed(path / MANIFEST)
        spec = spec_from_json(info["spec"])
        dataset = Dataset(path, info["digest"], spec, info)
        sound = content_digest(spec, info["files"]) == info["digest"] and "test" in info["splits"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"manifest {error}; import the data again") from error
    if not sound:
        raise BadInput(f"manifest {path / MANIFEST} is damaged (digest mismatch); import the data again")
    return dataset


def describe(dataset: Dataset) -> str:
    """Lines for people: where the rows are, what they hold and what was left out."""
    rows = ", ".join(f"{name} {dtype}{list(shape)}" for name, (shape, dtype) in dataset.spec.items())
    place = {"data": dataset.path, "digest": dataset.digest}
    facts = summary(dataset)
    about = {**place, "source": facts["source"], "rows": rows, **facts["about"], **facts["splits"]}
    lines = [f"{title:<10} {words}" for title, words in about.items()]
    lines += [f"note       {note}" for note in facts["notes"]]
    return "\n".join(lines + [f"WARNING    {warning}" for warning in facts["warnings"]])


def summary(dataset: Dataset) -> dict[str, Any]:
    """What people should know of the rows: `source`, `about`, `splits` (name -> words), `notes`, `warnings`."""
    splits = {}
    for name in sorted(dataset.info["splits"], key=SPLITS.index):
        counts = dataset.info["splits"][name]
        others = (f"{n:,} {what.replace('_', ' ')}" for what, n in counts.items() if what != "rows" and n)
        splits[name] = ", ".join([f"{counts['rows']:,} rows", *others])
    told = {"source": "?", "about": {}, "notes": [], "warnings": []}
    return {name: dataset.info.get(name, empty) for name, empty in told.items()} | {"splits": splits}
