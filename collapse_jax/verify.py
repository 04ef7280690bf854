"""`collapse verify`: re-hash everything a workdir rests on."""

from pathlib import Path

from collapse_jax import closed_form, files, lineage
from collapse_jax.config import BadInput
from collapse_jax.data.dataset import open_dataset


def store_of(workdir: Path) -> Path:
    """The store that a workdir's experiment lives in. Raises `BadInput` where there is none."""
    if not (workdir / "experiment.json").is_file():
        raise BadInput(f"{workdir} holds no experiment.json; give the --workdir of a run")
    return workdir / files.read_json(workdir / "experiment.json")["store"]


def problems(workdir: Path) -> list[str]:
    """One line for everything that is damaged, missing or in no manifest."""
    store = store_of(workdir)
    found = lineage.verify(store) + closed_form.verify(store)
    committed = {p.parent.name for p in (store / "generations").glob("*/manifest.json")}
    said = files.read_json(workdir / "experiment.json")["status"]
    found += [
        f"{store / 'generations' / name}: committed once, now without a manifest"
        for name, status in said.items()
        if status in ("committed", "diverged") and name not in committed
    ]
    for manifest in sorted((store / "data").glob("*/manifest.json")):
        if "." not in manifest.parent.name:
            found += open_dataset(manifest.parent).verify()
    return found
