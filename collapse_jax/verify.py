"""`collapse verify`: re-hash everything a workdir rests on."""

from collections.abc import Iterator
from pathlib import Path

from collapse_jax import closed_form, files
from collapse_jax import workdir as workdirs
from collapse_jax.config import BadInput
from collapse_jax.data.dataset import open_dataset
from collapse_jax.lineage import Generation
from collapse_jax.measures import features


def problems(workdir: Path) -> list[str]:
    """One line for everything that is damaged, missing, in no manifest or in no place of its own."""
    said = workdirs.read(workdir)
    store = workdirs.store_of(workdir, said)
    lines = [*_derived(workdir, said), *generations(store), *closed_form.verify(store), *_data(store)]
    for name, status in said.get("status", {}).items():
        places = [store / kind / name for kind in ("generations", "closed_form")]
        if status in ("committed", "diverged") and not any((p / "manifest.json").is_file() for p in places):
            lines.append(f"{places[0]}: committed once, now without a manifest")
    return lines


def _derived(workdir: Path, said: dict) -> Iterator[str]:
    for name in workdirs.DERIVED:
        yield from _problem(lambda name=name: files.inside(workdir, workdir / name))
    if "seal" not in said:
        yield f"{workdir / workdirs.EXPERIMENT} has no seal; run the experiment again to write it anew"
    yield from _problem(lambda: workdirs.records_of(workdir, said))


def _problem(check) -> list[str]:
    try:
        check()
    except BadInput as error:
        return [str(error)]
    return []


def generations(store: Path) -> list[str]:
    """Re-hash every committed generation of a store: one line for each thing that is wrong."""
    lines = []
    for folder in sorted((store / "generations").glob("*")):
        if "." in folder.name or not (folder / "manifest.json").exists():
            continue
        try:
            generation = Generation(store, files.read_json(folder / "recipe.json"))
            if generation.id != folder.name:
                lines.append(f"{folder}: recipe.json hashes to {generation.id}; one of the two was changed")
                continue
            generation.read()
            lines += generation.broken.values()
            lines += [f"{folder / name}: damaged or missing" for name in generation.damaged(contents=True)]
            lines += [f"{folder / name}: extra, in no manifest" for name in generation.extra()]
        except BadInput as error:
            lines.append(f"{folder}: {error}")
    return lines


def _data(store: Path) -> Iterator[str]:
    """Real rows and the networks that judge them."""
    for manifest in sorted((store / "data").glob("*/manifest.json")):
        if "." not in manifest.parent.name:
            try:
                yield from open_dataset(manifest.parent).verify()
            except BadInput as error:
                yield str(error)
    for path in sorted((store / "features").glob("*.npz")):
        yield from _problem(lambda path=path: features.read(path))
