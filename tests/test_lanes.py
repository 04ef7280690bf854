"""Seeds and arms side by side: the numbers of one fit at a time, whatever happens to the run or to another fit."""

import json
import shutil
import signal
from collections import Counter
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from conftest import CONFIG, collapse, outcome
from forced_devices import run as forced

from collapse_jax import cli, config, experiment
from collapse_jax import mesh as meshes
from collapse_jax.config import BadInput
from collapse_jax.lanes import filled, pick, stack
from collapse_jax.training.step import Trainer, Training

TOGETHER = [f"--config={CONFIG}", "--config.seeds=(0,1,2)", "--config.together=3", "--config.generations=2"]
POINTS = [
    "fit/step:5", "fit/checkpoint:2", "fit/end:2", "fit/saved:2", "sample/batch:2", "sample/shard:4", "measure/end:2",
    "commit/before:2", "commit/after:4",
]  # fmt: skip


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("together")
    assert cli.main(["run", *TOGETHER, f"--workdir={workdir}"]) == 0
    return workdir


def values(workdir):
    lines = (workdir / "records.jsonl").read_text().splitlines()
    return {
        tuple(r[k] for k in ("arm", "seed", "generation", "metric")): r["value"]
        for r in map(json.loads, lines)
    }


@pytest.mark.slow
def test_the_numbers_of_one_fit_at_a_time(untouched, tmp_path):
    assert cli.main(["run", *TOGETHER, "--config.together=1", f"--workdir={tmp_path}"]) == 0
    alone, together = values(tmp_path), values(untouched)
    assert alone.keys() == together.keys()
    np.testing.assert_allclose(list(together.values()), list(alone.values()), rtol=1e-5)
    assert outcome(tmp_path)["generations"].keys() == outcome(untouched)["generations"].keys()


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_point(untouched, tmp_path, point):
    killed = collapse("run", *TOGETHER, f"--workdir={tmp_path}", kill_at=point)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert cli.main(["run", *TOGETHER, f"--workdir={tmp_path}"]) == 0
    assert outcome(tmp_path) == outcome(untouched)


@pytest.mark.slow
def test_one_seed_missing_is_made_again_to_the_bit(untouched, tmp_path):
    shutil.copytree(untouched, tmp_path / "w")
    lost = json.loads((untouched / "experiment.json").read_text())["ids"]["replace"]["1"][1]
    shutil.rmtree(tmp_path / "w" / "generations" / lost)
    assert cli.main(["run", *TOGETHER, f"--workdir={tmp_path / 'w'}"]) == 0
    assert outcome(tmp_path / "w") == outcome(untouched)


def graph(*changes):
    made = experiment.resolve(config.load(CONFIG, ["--config.generations=2", *changes]))
    return experiment.plan(made, "digest", 96)


def test_groups_follow_from_the_experiment():
    planned = graph("--config.seeds=(0,1,2)")
    groups = replace(planned, lanes=4).groups()
    assert sorted(n.id for group in groups for n in group) == sorted(planned.nodes)
    assert [(n.generation, n.steps) for group in groups for n in group[:1]] == [
        (1, 18),
        (2, 18),
        (2, 18),
        (2, 36),
    ]
    assert all(len({(n.generation, n.steps) for n in group}) == 1 for group in groups)
    # one arm in generation 1; two of equal length, then the one that reads twice as much
    assert [[n.seed for n in group] for group in groups] == [[0, 1, 2], [0, 0, 1, 1], [2, 2], [0, 1, 2]]


@pytest.mark.parametrize(("seeds", "most", "ways", "lanes"), [
    ("(0,1,2)", 1, 1, 1),
    ("(0,1,2)", 2, 1, 2),
    ("(0,1,2)", 5, 1, 3),  # five would take as many steps
    ("(0,1,2)", 100, 1, 6),
    ("(0,)", 100, 1, 2),  # two arms of one seed
    ("(0,1,2)", 100, 4, 4),
])  # fmt: skip
def test_lanes_are_the_fewest_that_take_the_fewest_steps(seeds, most, ways, lanes):
    planned = graph(f"--config.seeds={seeds}")
    chosen = planned.side_by_side(most, ways)
    assert chosen.lanes == lanes
    plain = sum(
        -(-count // lanes) * steps
        for (_, steps), count in Counter((n.generation, n.steps) for n in planned.nodes.values()).items()
    )
    assert chosen.steps() == plain


def test_more_ways_than_fits_are_refused():
    with pytest.raises(BadInput, match=r"mesh\.seed=4 is more than the 2 fits that run side by side"):
        graph("--config.seeds=(0,)").side_by_side(100, 4)


def several(seeds, batches, settings, poisoned=None, at_once=1):
    """The states after all batches [K, G, B, L] of `seeds` side by side."""
    mesh = meshes.make()
    trainer = Trainer(toy.Toy(toy.Model(symbols=5), 1.0), settings, mesh, len(seeds))
    state = trainer.init(stack([jax.random.key(s) for s in seeds], len(seeds)))
    if poisoned is not None:
        model = [pick(state["model"], g) for g in range(len(seeds))]
        model[poisoned] = jax.tree.map(lambda x: x * np.nan, model[poisoned])
        state = trainer.start(stack(model, len(seeds)))
    keys = stack([jax.random.key(100 + s) for s in seeds], len(seeds))
    axis = "seed" if len(seeds) > 1 else None
    steps = np.float32(len(batches))
    if at_once > 1:
        for k in range(0, len(batches), at_once):
            placed = meshes.place(mesh, {"x": batches[k : k + at_once]}, None, axis, "data")
            state, _ = trainer.steps_at_once(state, placed, steps, keys)
    else:
        for batch in batches:
            state, _ = trainer.step(state, meshes.place(mesh, {"x": batch}, axis, "data"), steps, keys)
    return [pick(state, g) for g in range(len(seeds))]


def drawn(seeds, steps=8):
    generator = np.random.default_rng(0)
    return generator.integers(0, 5, (steps, seeds, 8, toy.LENGTH), dtype=np.int32)


def logits(state):
    return np.asarray(state["model"].logits[...])


def test_a_diverging_seed_leaves_the_others_untouched():
    settings, batches = Training(learning_rate=0.1), drawn(3)
    sound, ill = several((0, 1, 2), batches, settings), several((0, 1, 2), batches, settings, poisoned=1)
    for lane in (0, 2):
        np.testing.assert_array_equal(logits(sound[lane]), logits(ill[lane]))
    assert int(ill[1]["finite_steps"]) == 0 and int(sound[1]["finite_steps"]) == 8


def test_steps_in_one_dispatch_change_nothing_but_rounding():
    settings, batches = Training(learning_rate=0.1), drawn(2)
    for a, b in zip(
        several((0, 1), batches, settings), several((0, 1), batches, settings, at_once=4), strict=True
    ):
        np.testing.assert_allclose(logits(a), logits(b), atol=1e-6)
        assert int(b["step"]) == int(b["finite_steps"]) == 8


@pytest.mark.slow
def test_dispatches_in_a_run(untouched, tmp_path):
    assert cli.main(["run", *TOGETHER, "--config.train.dispatch=4", f"--workdir={tmp_path}"]) == 0
    a, b = values(untouched), values(tmp_path)
    np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-4)


@pytest.mark.slow
def test_averaged_weights_are_those_of_a_plain_loop():
    # a constant rate: the length of a fit changes none of its first steps
    settings, batches = Training(learning_rate=0.1, ema=0.6, schedule="constant", warmup=0.0), drawn(1)
    states = [several((0,), batches[:k], settings)[0] for k in range(len(batches) + 1)]
    average = logits(states[0])
    for step, state in enumerate(states[1:]):
        decay = min(0.6, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * logits(state)
    np.testing.assert_allclose(np.asarray(states[-1]["average"].logits[...]), average, atol=1e-6)


def test_lanes_are_filled_with_the_last():
    assert filled([1, 2], 4) == [1, 2, 2, 2]
    tree = stack([{"x": jnp.arange(3)}, {"x": jnp.ones(3, int)}], 3)
    assert tree["x"].shape == (3, 3)
    np.testing.assert_array_equal(pick(tree, 2)["x"], [1, 1, 1])


@pytest.mark.slow
def test_seeds_split_over_devices():
    program = """
import json, sys
sys.path.insert(0, "tests")
import numpy as np, jax, toy
from collapse_jax import mesh as meshes
from collapse_jax.lanes import pick, stack
from collapse_jax.training.step import Trainer, Training
def final(mesh):
    trainer = Trainer(toy.Toy(toy.Model(symbols=5), 1.0), Training(learning_rate=0.1), mesh, 4)
    keys = stack([jax.random.key(s) for s in range(4)], 4)
    state = trainer.init(keys)
    rows = np.random.default_rng(0).integers(0, 5, (6, 4, 8, toy.LENGTH), dtype=np.int32)
    for batch in rows:
        state, _ = trainer.step(state, meshes.place(mesh, {"x": batch}, "seed", "data"), np.float32(6), keys)
    assert mesh.shape["seed"] == 1 or str(jax.typeof(state["model"].logits[...])).startswith("float32[4@seed")
    return [np.asarray(pick(state, g)["model"].logits[...]).tolist() for g in range(4)]
print(json.dumps([final(meshes.make(8)), final(meshes.make(2, 1, 4))]))
"""
    whole, split = forced(program, 8)
    np.testing.assert_allclose(split, whole, atol=1e-6)
