"""Rows made once and found again: the directory `store/data/<key>` of whatever determines them.

The key is the hash of the settings and of the content of the source. A directory is filled aside, its manifest
is written last and the whole directory is renamed into place, so what is there is complete; what does not match
its manifest is set aside and made again.
"""

import contextlib
import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

from collapse_jax import files
from collapse_jax.config import BadInput
from collapse_jax.console import loud
from collapse_jax.data.dataset import MANIFEST, Dataset, content_digest, open_dataset
from collapse_jax.data.records import Row, ShardInfo, ShardWriter, Spec, row_dtype, shard_name, spec_to_json

ROWS_PER_SHARD = 65_536
BYTES_PER_SHARD = 1 << 28


@dataclass
class Draft:
    """A data directory while it is filled: `path`, and in `files` what the manifest will say of its files."""

    path: Path
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, name: str) -> None:
        """List the file `path / name`, which has been written, in the manifest."""
        self.files[name] = files.entry(self.path / name)

    def write_split(self, split: str, spec: Spec, batches: Iterable[Row]) -> int:
        """Write the shards of a split as its batches come; returns the number of rows.

        batches: dicts of arrays with a leading row axis of any length; an iterator is never held in memory.
        Raises `ValueError` where a batch does not fit the spec, `OSError` where the disk does not take it.
        """
        folder = self.path / split
        folder.mkdir()
        limit = max(1, min(ROWS_PER_SHARD, BYTES_PER_SHARD // row_dtype(spec).itemsize))
        written: list[ShardInfo] = []
        for index, parts in itertools.groupby(_cut(batches, limit), itemgetter(0)):
            with ShardWriter(folder / str(index), spec) as writer:
                for _, part in parts:
                    writer.write_batch(part)
                written.append(writer.close())
        for index, info in enumerate(written):  # how many there are is known now
            name = shard_name(index, len(written))
            os.rename(folder / str(index), folder / name)
            self.files[f"{split}/{name}"] = info._asdict()
        return sum(info.rows for info in written)


def _cut(batches: Iterable[Row], limit: int) -> Iterator[tuple[int, Row]]:
    """(shard, part of a batch) for shards of `limit` rows."""
    done = 0
    for batch in batches:
        start, count = 0, len(next(iter(batch.values())))
        while start < count:
            shard, filled = divmod(done, limit)
            stop = min(count, start + limit - filled)
            yield shard, {name: values[start:stop] for name, values in batch.items()}
            done, start = done + stop - start, stop


def key(settings: Mapping[str, Any], content: Iterable[bytes]) -> str:
    """Hash of what determines rows: settings (JSON-able, with a version of the code that uses them) and content."""
    digest = hashlib.sha256(files.canonical(settings))
    for part in content:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def obtain(store: Path, key: str, fill: Callable[[Draft], dict[str, Any]]) -> Dataset:
    """The rows of `key` from `store/data` when they are there and sound, else made by `fill`.

    fill: writes the splits (and what else belongs to the data) into a `Draft` and returns the dataset's `info`:
        "spec", "splits" (name -> counts, of which "rows") and whatever readers of the data want to find there,
        all JSON-able; see `Dataset.info` and `describe`. When it raises, nothing is left behind.
    A damaged directory, or one whose manifest has no seal, is set aside as `<key>.damaged-N`, with a line on
    stderr, and made again. Raises `BadInput` where a link lies in its place, `OSError` where the disk does not
    take the rows.
    """
    path = files.inside(Path(store), Path(store) / "data" / key[:20])
    return _reuse(path, key) or _make(path, key, fill)


def given(source: str, names: Iterable[str]) -> Dataset:
    """The data set `rows:DIR` that an earlier import made, with every file checked.

    names: of the arrays that its rows must have. Raises `BadInput` where it is damaged or of another kind.
    """
    dataset = open_dataset(Path(source.removeprefix("rows:")).expanduser())
    if set(dataset.spec) != set(names):
        raise BadInput(
            f"source={source!r} holds rows of {', '.join(dataset.spec)}, and rows of {', '.join(names)} are "
            "needed; give data of this family"
        )
    if problems := dataset.verify():
        more = f" (and {len(problems) - 1} more)" if problems[1:] else ""
        raise BadInput(f"{problems[0]}{more}; import the data again")
    return dataset


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
    aside = files.set_aside(path, "damaged")
    loud(f"{problems[0]}; {len(problems)} problem(s), set aside as {aside}, making the data again")
    return None


def _make(path: Path, key: str, fill: Callable[[Draft], dict[str, Any]]) -> Dataset:
    partial = path.with_name(f"{path.name}.partial")
    files.make_folder(path.parent)
    files.remove(path.parent, partial)  # left by a killed process
    partial.mkdir()
    try:
        draft = Draft(partial)
        info = fill(draft)
        manifest = {
            **info,
            "spec": spec_to_json(info["spec"]),
            "key": key,
            "digest": content_digest(info["spec"], draft.files),
            "files": draft.files,
        }
        files.write_json(partial / MANIFEST, files.sealed(manifest))
    except BaseException:
        with contextlib.suppress(OSError):
            files.remove(path.parent, partial)
        raise
    os.rename(partial, path)
    return open_dataset(path)
