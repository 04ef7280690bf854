"""Any mesh: every preset fits 256 devices, eight give the numbers of one, and steps talk no more than they must."""

import jax
import numpy as np
import pytest
from forced_devices import run
from jax.sharding import AbstractMesh, AxisType

from collapse_jax import mesh
from collapse_jax.config import BadInput
from collapse_jax.families.transformer import TransformerFamily
from collapse_jax.models.transformer import PRESETS
from collapse_jax.sampling.decode import Sampling
from collapse_jax.training.step import Trainer, Training


@pytest.fixture
def weights_over_data():
    mesh.split_weights(True)
    yield
    mesh.split_weights(False)


def family(config):
    return TransformerFamily(config, Sampling(), config.context, 0, config.vocab_size, False, 0.3, None)  # type: ignore[arg-type]


def step_shapes(family, settings, sizes):
    """The abstract state before and after a training step on an abstract mesh (data, seed, model)."""
    abstract = AbstractMesh(sizes, mesh.AXES, axis_types=(AxisType.Explicit,) * 3)
    keys = jax.ShapeDtypeStruct((1,), jax.random.key(0).dtype)
    with jax.sharding.use_abstract_mesh(abstract):
        trainer = Trainer(family, settings, abstract)  # type: ignore[arg-type]
        state = jax.eval_shape(trainer.init, keys)
        where = jax.sharding.NamedSharding(abstract, jax.P(None, "data"))
        batch = {
            name: jax.ShapeDtypeStruct((1, 2 * sizes[0], *shape), dtype, sharding=where)
            for name, (shape, dtype) in family.spec.items()
        }
        after, _ = jax.eval_shape(trainer.step, state, batch, jax.ShapeDtypeStruct((), np.float32), keys)
    return state, after


def specs(tree):
    return [x.sharding.spec for x in jax.tree.leaves(tree["model"])]


@pytest.mark.parametrize("sizes", [(256, 1, 1), (128, 1, 2)])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_fits_256_devices(preset, sizes):
    config = PRESETS[preset]
    if config.vocab_size % sizes[2]:
        pytest.skip("the vocabulary of GPT-2 is odd")
    state, after = step_shapes(family(config), Training(), sizes)
    assert specs(state) == specs(after)
    split = [spec for spec in specs(state) if "model" in spec]
    assert len(split) >= 4 and not any("data" in spec for spec in specs(state))


@pytest.mark.parametrize("preset", ["gpt2_9m", "llama2_126m"])
def test_weights_over_data_divide_the_memory(preset, weights_over_data):
    state, after = step_shapes(family(PRESETS[preset]), Training(), (64, 1, 4))
    assert specs(state) == specs(after)
    sizes = [(x.size, "data" in x.sharding.spec) for x in jax.tree.leaves(state["model"])]
    assert sum(n for n, split in sizes if split) > 0.99 * sum(n for n, _ in sizes)


PROGRAM = """
import json, re
import jax, numpy as np
from collapse_jax import mesh
from collapse_jax.lanes import stack
from collapse_jax.models.transformer import TransformerConfig
from collapse_jax.training.step import Trainer, Training
import sys
sys.path.insert(0, "tests")
from test_mesh import family

def losses(**shape):
    m = mesh.make(**shape)
    made = family(TransformerConfig("gpt2", 2, 64, 4, context=64, vocab_size=256, unroll=1))
    trainer = Trainer(made, Training(learning_rate=0.01, clip=0.5), m)
    keys = stack([jax.random.key(0)], 1)
    state, steps = trainer.init(keys), mesh.place(m, np.float32(4))
    tokens = np.random.default_rng(0).integers(0, 256, (4, 1, 16, 64)).astype(np.uint16)
    found, step = [], None
    for rows in tokens:
        batch = {"tokens": rows, "length": np.full((1, 16), 64, np.int32), "prompt": np.zeros((1, 16), np.int32)}
        placed = mesh.place(m, batch, None, "data")
        step = step or trainer.step.lower(state, placed, steps, keys).compile()
        state, metrics = step(state, placed, steps, keys)
        found.append(float(metrics["loss"][0]))
    pattern = r"= (\\S+) (all-gather|all-to-all|all-reduce|reduce-scatter|collective-permute)(?:-start)?\\("
    return found, re.findall(pattern, step.as_text())

shapes = dict(one=dict(data=1), data=dict(data=8), both=dict(data=4, model=2),
              fsdp=dict(data=8, fsdp=True), all=dict(data=4, model=2, fsdp=True))
print(json.dumps({name: losses(**shape) for name, shape in shapes.items()}))
"""


@pytest.fixture(scope="module")
def on_eight():
    return run(PROGRAM, 8)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["data", "both", "fsdp", "all"])
def test_eight_devices_give_the_losses_of_one(on_eight, name):
    np.testing.assert_allclose(on_eight[name][0], on_eight["one"][0], rtol=1e-5)


@pytest.mark.slow
def test_collectives_are_those_that_must_be(on_eight):
    """Gradients are summed; with weights over `data` they are gathered, activations never are."""
    for name, (_, collectives) in on_eight.items():
        kinds = {kind for _, kind in collectives}
        assert "all-to-all" not in kinds, name
        gathered = [shape for shape, kind in collectives if kind == "all-gather"]
        if name in ("one", "data", "both"):
            assert not gathered, (name, gathered)
        if name != "one":
            assert "all-reduce" in kinds or "reduce-scatter" in kinds
        # weights are matrices, activations have rows, positions and more
        assert all(shape.split("]")[0].count(",") < 2 for shape in gathered), (name, gathered)


@pytest.mark.parametrize(("shape", "line"), [
    ({"model": 3}, "mesh.model=3"), ({"seed": 5}, "mesh.seed=5"), ({"data": 7}, "does not fit 1 devices"),
])  # fmt: skip
def test_a_mesh_that_does_not_fit_is_refused(shape, line):
    with pytest.raises(BadInput, match=line):
        mesh.make(**shape)
