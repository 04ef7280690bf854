"""`collapse sample`: rows of a fitted generation, as people look at them."""

import base64
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from collapse_jax import experiment, files, rng, run
from collapse_jax import mesh as meshes
from collapse_jax.config import BadInput
from collapse_jax.lanes import stack
from collapse_jax.lineage import Generation
from collapse_jax.sampling.writer import Sampler
from collapse_jax.training import loop
from collapse_jax.training.step import Trainer
from collapse_jax.verify import store_of


def samples(workdir: Path, name: str, rows: int) -> Iterator[str]:
    """Rows 0, 1, ... of the generation whose id starts with `name`: text, or the names of the pictures written.

    Pictures go to the current folder. Raises `BadInput`.
    """
    store = store_of(workdir)
    settings = experiment.resolve(files.read_json(workdir / "experiment.json")["config"])
    mesh = meshes.make(**dataclasses.asdict(settings.mesh))
    dataset, family, graph = run.prepare(settings, store)
    matching = [n for n in graph.nodes.values() if n.id.startswith(name)]
    if len(matching) != 1:
        raise BadInput(
            f"--generation={name} matches {len(matching)} generations of {workdir}; see experiment.json"
        )
    node = matching[0]
    generation = Generation(store, node.recipe).read()
    if not generation.committed:
        raise BadInput(f"generation {node.id} is not committed yet; run the experiment first")
    trainer = Trainer(family, settings.train, mesh, graph.lanes)
    model = loop.load(trainer, generation.path / "checkpoint" / "fitted")
    sampler = Sampler(family, settings.writing, mesh, graph.lanes)
    real, models, stream = dataset.rows("train"), stack([model], graph.lanes), (node.seed, node.generation)
    batches = [batch for [(_, _, batch, _)] in sampler.batches(models, [stream], [[(0, rows)]], real)]
    drawn = {key: np.concatenate([batch[key] for batch in batches]) for key in family.spec}
    shown = family.show(model, drawn, real.read(0, min(rows, len(real))), rng.key("show", node.seed))
    yield from shown.get("lines", ())
    for index, picture in enumerate(shown.get("pictures", ())):
        path = Path(f"{node.id}-{index}.png")
        path.write_bytes(base64.b64decode(picture["png"]))
        yield f"{path}: {picture['title']}"
