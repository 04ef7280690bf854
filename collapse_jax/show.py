"""`collapse sample`: rows of a fitted generation, as a person reads them."""

from collections.abc import Iterator
from pathlib import Path

from collapse_jax import experiment, files, run
from collapse_jax import mesh as meshes
from collapse_jax.config import BadInput
from collapse_jax.lineage import Generation
from collapse_jax.sampling.writer import Sampler
from collapse_jax.training import loop
from collapse_jax.training.step import Trainer
from collapse_jax.verify import store_of


def samples(workdir: Path, name: str, rows: int) -> Iterator[str]:
    """Rows 0, 1, ... of the generation whose id starts with `name`. Raises `BadInput`."""
    store = store_of(workdir)
    settings = experiment.resolve(files.read_json(workdir / "experiment.json")["config"])
    mesh = meshes.make(settings.mesh.data, settings.mesh.model)
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
    trainer = Trainer(family, settings.train, mesh)
    model = loop.load(trainer, generation.path / "checkpoint" / "fitted")
    sampler = Sampler(family, settings.writing, mesh)
    for batch in sampler.rows(model, node.seed, node.generation, dataset.rows("train"), 0, rows):
        for i in range(len(next(iter(batch.values())))):
            yield family.show({key: x[i] for key, x in batch.items()})
