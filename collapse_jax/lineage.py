"""Lineage: the identity of a generation, its folder, and what of it can be trusted.

A generation's id is the hash of its recipe: everything that determines its results, with its parents by id.
Libraries, device and mesh are recorded in the manifest, not hashed; raise `RECIPE_VERSION` when a change of
this code would change results. The folder keeps a journal, `progress.json`, of the files written so far and
their digests; `manifest.json` follows, last and atomically, once every stage is done. Both are sealed and carry
the id. What neither names does not exist; what does not match is set aside and made again. Reading changes
nothing: `mend` does.
"""

import functools
import hashlib
import os
import re
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
            return {name: getattr(self, name) for name in ("state", "committed", "manifest", "broken")}

        self.__dict__.update(processes.shared(there))

    return run


def generation_id(recipe: dict[str, Any]) -> str:
    """20 hex digits that name the recipe."""
    return hashlib.sha256(files.canonical(recipe)).hexdigest()[:20]


class Generation:
    """The folder of one generation: recipe.json, checkpoint/, synthetic/, metrics.json, manifest.json.

    `state` holds the journal: `files` (path below the folder -> bytes, sha256, rows of a shard), `stages`
    (name -> what the stage found out, JSON) and, while shards are renamed, `moves` (old -> new path).
    `broken` names the manifest and journal that are not to be trusted, with what is wrong.
    """

    def __init__(self, store: Path, recipe: dict[str, Any]):
        self.recipe = recipe
        self.id = generation_id(recipe)
        self.store, self.path = store, store / "generations" / self.id
        self.state: dict[str, Any] = {"files": {}, "stages": {}}
        self.committed = False
        self.manifest: dict[str, Any] = {}
        self.broken: dict[str, str] = {}

    def read(self) -> "Generation":
        """This generation as far as it has come on disk."""
        self._load()
        return self

    @led
    def _load(self) -> None:
        self.look()

    def look(self) -> "Generation":
        """`read` for one process alone: what the folder says of itself, trusting sizes and small files' digests."""
        self.broken = {}
        for name in ("manifest.json", "progress.json"):
            if not self._inside(name).exists():
                continue
            try:
                self.manifest = vouched(self.path, name)
            except BadInput as error:
                self.broken[name] = str(error)
                continue
            self.state = {k: v for k, v in self.manifest.items() if k in ("files", "stages", "moves")}
            self.committed = name == "manifest.json"
            break
        return self

    @led
    def start(self) -> None:
        """Make the folder and write the recipe down."""
        self._inside("synthetic").mkdir(parents=True, exist_ok=True)
        self._write_recipe()

    def _write_recipe(self) -> None:
        path = self._inside("recipe.json")
        try:
            if generation_id(files.read_json(path)) == self.id:
                return
            why = "belongs to another generation"
        except BadInput as error:
            why = str(error) if path.exists() else ""
        if why:
            aside = files.set_aside(path, "damaged")
            loud(f"generation {self.id}: {why}; set aside as {aside.name} and written again")
        files.write_json(path, self.recipe)

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
            for p in sorted(self._inside(part).glob("*"))
        )
        return [name for name in found if name not in known and not SET_ASIDE.search(name)]

    @led
    def mend(self, contents: bool = True) -> None:
        """Set damaged and unknown files aside and forget the stages that made them; they will run again."""
        if not self.path.exists():
            return
        for why in self.broken.values():
            loud(f"generation {self.id}: {why}; set aside")
        if self.broken and not self.manifest:  # nothing says what the rest of the folder is
            self._set_aside("damaged")
            return
        for name in self.broken:
            files.set_aside(self._inside(name), "damaged")
        self.broken = {}
        self._write_recipe()
        if self.state.get("moves"):  # a killed run was renaming
            self._move()
        for name in self.extra():
            if self.committed:
                loud(f"generation {self.id}: {name} is in no manifest; set aside")
                files.set_aside(self._inside(name), "extra")
            else:  # what a killed run was writing
                files.remove(self.store, self.path / name)
        bad = {_group(name) for name in self.damaged(contents)}
        for name in sorted(bad):
            loud(f"generation {self.id}: {name} is damaged or missing; set aside, to be made again")
            self._forget(name)
        old = self.running() if self.result("fit") else []
        for folder in old:  # a killed run was about to
            self._drop(folder)
        if bad or old:
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
                files.set_aside(self._inside(shard.relative_to(self.path).as_posix()), "stale")
            self.state = {"files": {}, "stages": {}}

    def _inside(self, name: str) -> Path:
        """The path of a file or folder of the generation. Raises `BadInput` where it leads elsewhere."""
        return files.inside(self.store, files.inside(self.path, self.path / name))

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
        files.write_json(self._inside("progress.json"), files.sealed({"id": self.id, **self.state}))

    def running(self) -> list[Path]:
        """Folders of a running fit's checkpoints, oldest first."""
        names = {Path(name).parts[1] for name in self.state["files"] if name.startswith("checkpoint/")}
        return [self.path / "checkpoint" / n for n in sorted((n for n in names if n.isdigit()), key=int)]

    @led
    def drop(self, folder: Path) -> None:
        """Forget a finished folder (an old checkpoint) and remove it, in the order that survives a crash."""
        self._drop(folder)

    def _drop(self, folder: Path) -> None:
        prefix = folder.relative_to(self.path).as_posix() + "/"
        self.state["files"] = {k: v for k, v in self.state["files"].items() if not k.startswith(prefix)}
        self._save()
        files.remove(self.store, folder)

    def json(self, name: str) -> Any:
        """A small result. Raises `BadInput` where it is not what the journal or manifest says."""
        said = self.state["files"].get(name)
        if said is None or not files.matches(self._inside(name), said):
            raise BadInput(f"{self.path / name} is damaged or missing; run the experiment again to make it")
        return files.read_json(self.path / name)

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
        """Give the shards, by their first rows, the names they have in a larger set.

        What is to be renamed is written down first, so that it can be finished after a kill (`mend`); no manifest
        says otherwise meanwhile.
        """
        self.state["moves"] = {
            f"synthetic/{path.name}": f"synthetic/{names[said['first']]}"
            for path, said in self.shards()
            if path.name != names[said["first"]]
        }
        if self.state["moves"]:
            self._reopen()
        self._move()

    def _move(self) -> None:
        moves, known = self.state.pop("moves"), self.state["files"]
        for old, new in moves.items():
            if self._inside(old).exists():
                os.replace(self._inside(old), self._inside(new))
            faults.point("sample/moved")
        self.state["files"] = {moves.get(name, name): said for name, said in known.items()}
        if moves:
            self._save()

    @led
    def write(self, name: str, value: Any) -> None:
        """Write a small JSON file of the generation and write it down."""
        path = self._inside(name)
        files.write_json(path, value)
        self.state["files"][name] = files.entry(path)
        self._save()

    @led
    def set_aside(self, why: str) -> None:
        """Put the whole folder aside and begin with none."""
        self._set_aside(why)

    def _set_aside(self, why: str) -> None:
        aside = files.set_aside(self._inside("."), why)
        loud(f"generation {self.id} is {why}; set aside as {aside.name}")
        self.state, self.committed = {"files": {}, "stages": {}}, False
        self.manifest, self.broken = {}, {}

    @led
    def commit(self, facts: dict[str, Any]) -> None:
        """The generation exists from the moment its manifest does."""
        faults.point("commit/before")
        self.manifest = {"id": self.id, "version": RECIPE_VERSION, **self.state, **facts}
        files.write_json(self._inside("manifest.json"), files.sealed(self.manifest))
        faults.point("commit/after")
        self.committed = True

    @led
    def reopen(self) -> None:
        """Back to work on a committed generation, e.g. to sample more rows; nothing finished is lost."""
        self._reopen()

    def _reopen(self) -> None:
        self._save()
        files.remove(self.store, self.path / "manifest.json")
        self.committed = False


def vouched(folder: Path, name: str = "manifest.json") -> dict[str, Any]:
    """The manifest (or journal) in a generation's folder. Raises `BadInput` where it is not sound or another's."""
    said = files.unsealed(folder / name)
    if said.get("id") != folder.name:
        raise BadInput(f"{folder / name} belongs to generation {said.get('id')}, not to this folder")
    if not all(isinstance(said.get(key), dict) for key in ("files", "stages")):
        raise BadInput(f"{folder / name} is damaged: it names no files and stages")
    return said


def _group(name: str) -> str:
    """What is damaged or whole together: a checkpoint folder, else the single file."""
    parts = Path(name).parts
    return "/".join(parts[:2]) if parts[0] == "checkpoint" else name
