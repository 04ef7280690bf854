"""Lineage: the identity of a generation, its folder, and what of it can be trusted.

A generation's id is the hash of its recipe: everything that determines its results, with its parents by id.
Libraries, device and mesh are recorded in the manifest, not hashed; raise `RECIPE_VERSION` when a change of
this code would change results. The folder keeps a journal, `progress.json`, of the files written so far and
their digests; `manifest.json` follows, last and atomically, once every stage is done. What neither names
does not exist; what does not match is set aside and made again.
"""

import functools
import hashlib
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from collapse_jax import faults, files, processes
from collapse_jax.config import BadInput
from collapse_jax.console import loud

RECIPE_VERSION = 1
SMALL = 1 << 20  # files up to this size are always hashed, larger ones before they are used
SET_ASIDE = re.compile(r"\.(damaged|extra|stale)-\d+$")


def led(method: Callable[..., None]) -> Callable[..., None]:
    """A method that touches the disk: process 0 alone runs it, and all take over what it has made of the state."""

    @functools.wraps(method)
    def run(self: "Generation", *arguments: Any, **options: Any) -> None:
        def there() -> dict[str, Any]:
            method(self, *arguments, **options)
            return {"state": self.state, "committed": self.committed, "manifest": self.manifest}

        found = processes.shared(there)
        self.state, self.committed, self.manifest = found["state"], found["committed"], found["manifest"]

    return run


def generation_id(recipe: dict[str, Any]) -> str:
    """20 hex digits that name the recipe."""
    return hashlib.sha256(files.canonical(recipe)).hexdigest()[:20]


class Generation:
    """The folder of one generation: recipe.json, checkpoint/, synthetic/, metrics.json, manifest.json.

    `state` holds the journal: `files` (path below the folder -> bytes, sha256, rows of a shard) and `stages`
    (name -> what the stage found out, JSON).
    """

    def __init__(self, store: Path, recipe: dict[str, Any]):
        self.recipe = recipe
        self.id = generation_id(recipe)
        self.path = store / "generations" / self.id
        self.state: dict[str, Any] = {"files": {}, "stages": {}}
        self.committed = False
        self.manifest: dict[str, Any] = {}

    def read(self) -> "Generation":
        """This generation as far as it has come on disk."""
        self._load()
        return self

    @led
    def _load(self) -> None:
        """Load what the folder says of itself, trusting sizes and the digests of its small files."""
        for name, committed in (("manifest.json", True), ("progress.json", False)):
            if (self.path / name).is_file():
                try:
                    found = unsealed(self.path / name)
                    self.state = {"files": dict(found["files"]), "stages": dict(found["stages"])}
                    self.manifest = found
                    self.committed = committed
                    break
                except (BadInput, KeyError, TypeError):
                    aside = files.set_aside(self.path / name, "damaged")
                    loud(f"{self.path / name} is damaged; set aside as {aside.name}")

    @led
    def start(self) -> None:
        """Make the folder and write the recipe down."""
        (self.path / "synthetic").mkdir(parents=True, exist_ok=True)
        if not (self.path / "recipe.json").is_file():
            files.write_json(self.path / "recipe.json", self.recipe)

    def damaged(self, contents: bool) -> list[str]:
        """Files that are missing or differ from the journal (by digest when small or with `contents`)."""
        return [
            name
            for name, said in self.state["files"].items()
            if not files.matches(self._inside(name), said, contents or said["bytes"] <= SMALL)
        ]

    def extra(self) -> list[str]:
        """Shards and checkpoints that nobody wrote down."""
        known = {_group(name) for name in self.state["files"]}
        found = (
            p.relative_to(self.path).as_posix()
            for part in ("checkpoint", "synthetic")
            for p in sorted((self.path / part).glob("*"))
        )
        return [name for name in found if name not in known and not SET_ASIDE.search(name)]

    @led
    def mend(self, contents: bool = True) -> None:
        """Set damaged and unknown files aside and forget the stages that made them; they will run again."""
        for name in self.extra():
            if self.committed:
                loud(f"generation {self.id}: {name} is in no manifest; set aside")
                files.set_aside(self._inside(name), "extra")
            else:  # what a killed run was writing
                shutil.rmtree(self._inside(name)) if self._inside(name).is_dir() else self._inside(
                    name
                ).unlink()
        bad = {_group(name) for name in self.damaged(contents)}
        for name in sorted(bad):
            loud(f"generation {self.id}: {name} is damaged or missing; set aside, to be made again")
            self._forget(name)
        if bad:
            self._reopen()

    def _forget(self, group: str) -> None:
        """Drop a checkpoint, a shard or a result, and the record of the stage that made it."""
        self.state["files"] = {k: v for k, v in self.state["files"].items() if _group(k) != group}
        if self._inside(group).exists():
            files.set_aside(self._inside(group), "damaged")
        kind = Path(group).parts[0]
        stage = {"synthetic": "sample", "show.json": "measure"}.get(kind)
        if kind == "checkpoint" and (self.result("fit") or {}).get("checkpoint") == group:
            stage = "fit"
        if stage is not None:
            self.state["stages"][f"lost {stage}"] = self.state["stages"].pop(stage, {})

    @led
    def refitted(self, parameters: str) -> None:
        """Keep what was made from a lost checkpoint only if the new weights are the same to the bit."""
        lost = self.state["stages"].pop("lost fit", {"parameters": parameters})
        if lost.get("parameters") != parameters:
            loud(f"generation {self.id} was fitted again with other rounding; the rest of it is redone")
            for shard, _ in self.shards():
                files.set_aside(shard, "stale")
            self.state = {"files": {}, "stages": {}}

    def _inside(self, name: str) -> Path:
        path = self.path / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise BadInput(
                f"{self.path}: manifest names {name!r}, a path outside the generation; it is not trusted"
            )
        return path

    @led
    def journal(self, paths: Iterable[Path], **said: Any) -> None:
        """Write down finished files with their digests."""
        for path in paths:
            self.state["files"][path.relative_to(self.path).as_posix()] = files.entry(path) | said
        self._save()

    @led
    def finish(self, stage: str, result: dict[str, Any]) -> None:
        """Write down that a stage is done and what it found."""
        self.state["stages"].pop(f"lost {stage}", None)
        self.state["stages"][stage] = files.finite(result)
        self._save()

    def result(self, stage: str) -> dict[str, Any] | None:
        """What a finished stage found, or None while it is not done."""
        return self.state["stages"].get(stage)

    @led
    def save(self) -> None:
        """Write the journal."""
        self._save()

    def _save(self) -> None:
        files.write_json(self.path / "progress.json", sealed(self.state))

    @led
    def drop(self, folder: Path) -> None:
        """Forget a finished folder (an old checkpoint) and remove it, in the order that survives a crash."""
        prefix = folder.relative_to(self.path).as_posix() + "/"
        self.state["files"] = {k: v for k, v in self.state["files"].items() if not k.startswith(prefix)}
        self._save()
        shutil.rmtree(folder)

    def shards(self) -> list[tuple[Path, dict[str, Any]]]:
        """The synthetic shards in row order with what the journal says of them."""
        return sorted(
            ((self.path / k, v) for k, v in self.state["files"].items() if k.startswith("synthetic/")),
            key=lambda shard: shard[1]["first"],
        )

    def shards_covering(self, rows: int) -> list[str]:
        """Digests of the shards that hold the first `rows` rows: what a child was really trained on."""
        return [said["sha256"] for _, said in self.shards() if said["first"] < rows]

    @led
    def renumber(self, names: dict[int, str]) -> None:
        """Give the shards, by their first rows, the names they have in a larger set: link, write down, unlink."""
        moves = [
            (path, path.with_name(names[said["first"]]), said)
            for path, said in self.shards()
            if path.name != names[said["first"]]
        ]
        known = self.state["files"]
        for path, new, said in moves:
            new.unlink(missing_ok=True)
            new.hardlink_to(path)
            del known[path.relative_to(self.path).as_posix()]
            known[new.relative_to(self.path).as_posix()] = said
        if moves:
            self._save()
        for path, _, _ in moves:
            path.unlink()

    @led
    def write(self, name: str, value: Any) -> None:
        """Write a small JSON file of the generation and write it down."""
        path = self.path / name
        files.write_json(path, value)
        self.state["files"][name] = files.entry(path)
        self._save()

    @led
    def set_aside(self, why: str) -> None:
        """Put the whole folder aside and begin with none."""
        aside = files.set_aside(self.path, why)
        loud(f"generation {self.id} is {why}; set aside as {aside.name}")
        self.state, self.committed = {"files": {}, "stages": {}}, False

    @led
    def commit(self, facts: dict[str, Any]) -> None:
        """The generation exists from the moment its manifest does."""
        faults.point("commit/before")
        self.manifest = {"id": self.id, "version": RECIPE_VERSION, **self.state, **facts}
        files.write_json(self.path / "manifest.json", sealed(self.manifest))
        faults.point("commit/after")
        self.committed = True

    @led
    def reopen(self) -> None:
        """Back to work on a committed generation, e.g. to sample more rows; nothing finished is lost."""
        self._reopen()

    def _reopen(self) -> None:
        self._save()
        (self.path / "manifest.json").unlink(missing_ok=True)
        self.committed = False


def sealed(said: dict[str, Any]) -> dict[str, Any]:
    """A journal or manifest with its own digest, so that a flipped bit in it is noticed too."""
    plain = files.finite({k: v for k, v in said.items() if k != "seal"})
    return plain | {"seal": hashlib.sha256(files.canonical(plain)).hexdigest()}


def unsealed(path: Path) -> dict[str, Any]:
    """Read what `sealed` wrote. Raises `BadInput` when it is missing or damaged."""
    said = files.read_json(path)
    if not isinstance(said, dict) or sealed(said)["seal"] != said.get("seal"):
        raise BadInput(f"{path} is damaged: it does not match its seal")
    return said


def _group(name: str) -> str:
    """What is damaged or whole together: a checkpoint folder, else the single file."""
    parts = Path(name).parts
    return "/".join(parts[:2]) if parts[0] == "checkpoint" else name


def verify(store: Path) -> list[str]:
    """Re-hash every committed generation of a store: one line for each thing that is wrong."""
    problems = []
    for folder in sorted((store / "generations").glob("*")):
        if "." in folder.name or not (folder / "manifest.json").is_file():
            continue
        try:
            recipe = files.read_json(folder / "recipe.json")
            generation = Generation(store, recipe)
            manifest = unsealed(folder / "manifest.json")
            generation.state = {"files": manifest["files"], "stages": manifest["stages"]}
            if generation.id != folder.name:
                problems.append(
                    f"{folder}: recipe.json hashes to {generation.id}; one of the two was changed"
                )
                continue
            problems += [f"{folder / name}: damaged or missing" for name in generation.damaged(contents=True)]
            problems += [f"{folder / name}: extra, in no manifest" for name in generation.extra()]
        except (BadInput, KeyError, TypeError) as error:
            problems.append(f"{folder}: {error}")
    return problems
