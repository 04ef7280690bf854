"""`collapse sample`: rows of a fitted generation, as people look at them."""

import base64
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from collapse_jax import experiment, files, rng, run
from collapse_jax import mesh as meshes
from collapse_jax import workdir as workdirs
from collapse_jax.config import BadInput
from collapse_jax.lanes import stack
from collapse_jax.lineage import Generation
from collapse_jax.report.words import visible
from collapse_jax.sampling.writer import Sampler
from collapse_jax.training import loop
from collapse_jax.training.step import Trainer


def samples(workdir: Path, name: str, rows: int) -> Iterator[str]:
    """Rows 0, 1, ... of the generation whose id starts with `name`: text, or the names of the pictures written.

    A line with its number stands above each text, whose control characters are spelt out. Pictures go to the
    current folder; nothing is written elsewhere. Raises `BadInput`.
    """
    with files.reading():
        name, shown = _shown(workdir, name, rows)
    for index, text in enumerate(shown.get("lines", ())):
        yield f"--- sample {index} ---"
        yield visible(text)
    for index, picture in enumerate(shown.get("pictures", ())):
        path = Path(f"{name}-{index}.png")
        files.write_bytes(path, base64.b64decode(picture["png"]))
        yield f"{path}: {visible(picture['title'])}"


def _shown(workdir: Path, name: str, rows: int) -> tuple[str, dict[str, Any]]:
    """The id of the generation and what its family shows of the rows, from files that match their manifests."""
    said = workdirs.read(workdir)
    store = workdirs.store_of(workdir, said)
    settings = experiment.resolve(said["config"])
    mesh = meshes.make(**dataclasses.asdict(settings.mesh))
    dataset, family, graph = run.prepare(settings, store, workdir)
    matching = [n for n in graph.nodes.values() if n.id.startswith(name)]
    if len(matching) != 1:
        raise BadInput(
            f"--generation={name} matches {len(matching)} generations of {workdir}; see experiment.json"
        )
    node = matching[0]
    generation = Generation(store, node.recipe).read()
    if not generation.committed:
        why = next(iter(generation.broken.values()), "it is not committed yet")
        raise BadInput(f"generation {node.id}: {why}; run the experiment first")
    if damaged := [n for n in generation.damaged(contents=True) if n.startswith("checkpoint/")]:
        raise BadInput(
            f"{generation.path / damaged[0]} is damaged or missing; run the experiment again to make it"
        )
    trainer = Trainer(family, settings.train, mesh, graph.lanes)
    model = loop.load(trainer, generation.path / "checkpoint" / "fitted")
    sampler = Sampler(family, settings.writing, mesh, graph.lanes)
    real, models, stream = dataset.rows("train"), stack([model], graph.lanes), (node.seed, node.generation)
    batches = [batch for [(_, _, batch, _)] in sampler.batches(models, [stream], [[(0, rows)]], real)]
    drawn = {key: np.concatenate([batch[key] for batch in batches]) for key in family.spec}
    return node.id, family.show(model, drawn, real.read(0, min(rows, len(real))), rng.key("show", node.seed))
