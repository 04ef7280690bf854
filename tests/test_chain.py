"""The chain on the toy family: what is shared, what is on disk, and that the numbers are the algorithm's."""

import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import toy
from conftest import CONFIG, collapse, outcome

from collapse_jax import cli, config, experiment, files
from collapse_jax.data.records import RowSource
from collapse_jax.experiment import plan

GENERATIONS, SEEDS = 3, 2


@pytest.fixture
def workdir(toy_run, tmp_path) -> Path:
    return Path(shutil.copytree(toy_run, tmp_path / "run"))


def load(*overrides: str):
    return experiment.resolve(config.load(CONFIG, overrides))


def manifests(workdir: Path) -> dict[str, dict]:
    return {p.parent.name: json.loads(p.read_text()) for p in workdir.glob("generations/*/manifest.json")}


def records(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "records.jsonl").read_text().splitlines()]


def test_arms_share_generation_one(toy_run):
    said = files.read_json(toy_run / "experiment.json")
    for seed in ("0", "1"):
        firsts = {ids[seed][0] for ids in said["ids"].values()}
        assert len(firsts) == 1
    distinct = {name for seeds in said["ids"].values() for ids in seeds.values() for name in ids}
    assert distinct == set(manifests(toy_run)) and len(distinct) == SEEDS * (1 + 3 * (GENERATIONS - 1))


def test_records_follow_the_contract(toy_run):
    found = records(toy_run)
    keys = ["arm", "seed", "generation", "generation_id", "metric", "value", "unit", "split", "predicted"]
    assert all(list(r) == keys for r in found)
    assert (
        len(found) == 3 * SEEDS * GENERATIONS * 4
    )  # train_loss, test_loss, entropy, sample_loss_under_first
    order = [(r["arm"], r["seed"], r["generation"], r["metric"]) for r in found]
    assert order == sorted(order)


def test_what_is_known_of_the_data_is_printed_and_in_the_report(workdir, capsys, monkeypatch):
    told = {"about": {"column": "story"}, "notes": ["nulls: 3"], "warnings": ["9 <b> test rows"]}
    monkeypatch.setattr(
        toy.Dataset, "info", {"source": "toy", "splits": {"test": {"rows": 7, "nulls": 0}}, **told}
    )
    assert cli.main(["run", f"--config={CONFIG}", f"--workdir={workdir}"]) == 0
    out, err = capsys.readouterr()
    assert "data: toy; column: story\nnote: nulls: 3\n" in out and "WARNING: 9 <b> test rows" in err
    page = (workdir / "report.html").read_text()
    assert "Warning: 9 &lt;b&gt; test rows" in page and ">nulls: 3<" in page
    assert '<td>column</td><td class="left">story</td>' in page and ">7 rows<" in page
    assert cli.main(["plan", f"--config={CONFIG}", f"--workdir={workdir}"]) == 0
    planned = capsys.readouterr().out
    assert "nulls: 3" in planned and "WARNING: 9 <b> test rows" in planned


def test_mixtures_are_what_the_workflow_says(toy_run):
    said = files.read_json(toy_run / "experiment.json")
    found = manifests(toy_run)
    for arm, seeds in said["ids"].items():
        for ids in seeds.values():
            for t, name in enumerate(ids, 1):
                recipe = files.read_json(toy_run / "generations" / name / "recipe.json")
                used = {part["number"]: part["used"] for part in recipe["mixture"]}
                drawn = dict(zip(used, found[name]["stages"]["fit"]["drawn"], strict=True))
                if arm == "replace_multiple":
                    assert used == {t - 1: 96 * t}
                elif arm == "replace":
                    assert used == {t - 1: 96}
                else:
                    assert sum(used.values()) == 96 and max(used) <= t - 1
                assert drawn == {k: 3 * n for k, n in used.items()}  # three epochs, batches divide them
                parents = {part["source"] for part in recipe["mixture"]} - {"real"}
                assert parents == set(found[name]["parents"]) == {ids[k - 1] for k in used if k}


def test_a_run_is_deterministic(toy_run, tmp_path):
    assert cli.main(["run", f"--config={CONFIG}", f"--workdir={tmp_path}"]) == 0
    assert outcome(tmp_path) == outcome(toy_run)


def test_running_again_changes_nothing(workdir):
    before = {p: p.stat().st_mtime_ns for p in workdir.glob("generations/*/*")}
    assert cli.main(["run", f"--config={CONFIG}", f"--workdir={workdir}"]) == 0
    assert before == {p: p.stat().st_mtime_ns for p in workdir.glob("generations/*/*")}


def test_a_longer_experiment_and_a_shared_store_reuse_what_is_there(workdir, tmp_path, capsys):
    before = outcome(workdir)["generations"]
    other = tmp_path / "other"
    arguments = [
        "run",
        f"--config={CONFIG}",
        f"--workdir={other}",
        f"--store={workdir}",
        "--config.generations=4",
    ]
    assert cli.main(arguments) == 0
    after = outcome(_view(other, workdir))["generations"]
    assert f"{len(before)} done, 6 to run" in capsys.readouterr().out
    for name, said in before.items():
        assert after[name]["parameters"] == said["parameters"]
        # replace_multiple asks its last generation for more rows: the shards there are keep their bytes
        assert list(said["shards"].values()) == list(after[name]["shards"].values())[: len(said["shards"])]
    assert sum(len(after[n]["shards"]) > len(before[n]["shards"]) for n in before) == SEEDS
    assert cli.main(["run", f"--config={CONFIG}", f"--workdir={workdir}"]) == 0
    assert cli.main(["verify", str(other)]) == cli.main(["verify", str(workdir)]) == 0


def _view(records_of: Path, store: Path) -> Path:
    """A folder that `outcome` can read where workdir and store differ."""
    shutil.copy(records_of / "records.jsonl", store / "records.jsonl")
    return store


def test_rows_do_not_depend_on_how_the_job_is_cut(toy_run, tmp_path):
    cut = ["--config.writing.batch_size=7", "--config.writing.rows_per_shard=40"]
    assert (
        cli.main(["run", f"--config={CONFIG}", f"--workdir={tmp_path}", "--config.generations=1", *cut]) == 0
    )
    spec = {"x": ((8,), "int32")}
    for name, manifest in manifests(tmp_path).items():
        rows = []
        for folder, said in ((tmp_path, manifest), (toy_run, manifests(toy_run)[name])):
            shards = sorted((v["first"], k, v["rows"]) for k, v in said["files"].items() if "first" in v)
            source = RowSource([(folder / "generations" / name / k, n) for _, k, n in shards], spec)
            rows.append(source.read(0, 96)["x"])
        np.testing.assert_array_equal(*rows)


def test_identity_sees_settings_that_matter_and_no_others():
    base = plan(load(), "d", 96)

    def ids(*overrides: str, rows: int = 96, digest: str = "d") -> dict:
        return plan(load(*overrides), digest, rows).ids

    assert (
        ids("--config.writing.batch_size=5", "--config.evaluate.batch_size=9", "--config.name=x") == base.ids
    )
    assert ids("--config.train.checkpoint_every=1", "--config.mesh.data=1") == base.ids
    for change in ("train.learning_rate=0.06", "train.epochs=2", "sample.temperature=0.9", "model.symbols=17",
                   "evaluate.rows=5", "train.weight_decay=0.0"):  # fmt: skip
        assert not set(ids(f"--config.{change}")["replace"][0]) & set(base.ids["replace"][0]), change
    assert ids(digest="e") != base.ids
    # a fork is a different table from some generation on
    fork = load()
    fork.arms["fork"] = experiment.Arm("table", table=((1,), (0, 1), (1, 0, 1)))
    forked = plan(fork, "d", 96)
    assert forked.ids["fork"][0][:2] == forked.ids["replace"][0][:2]
    assert forked.ids["fork"][0][2] != forked.ids["replace"][0][2]
    assert forked.ids["replace"] == base.ids["replace"]


def test_step_matched_budgets():
    settings = load()
    settings.arms["matched"] = experiment.Arm("accumulate", budget="steps")
    graph = plan(settings, "d", 96)
    steps = [graph.nodes[name].steps for name in graph.ids["matched"][0]]
    assert steps == [3 * 96 // 16] * 3
    assert graph.ids["matched"][0][0] == graph.ids["replace"][0][0]


@pytest.mark.slow
def test_weights_from_the_parent_and_from_a_checkpoint(toy_run, tmp_path):
    warm = [
        f"--config={CONFIG}",
        f"--workdir={tmp_path / 'a'}",
        "--config.train.init=parent",
        "--config.seeds=(0,)",
    ]
    assert cli.main(["run", *warm]) == 0
    assert outcome(tmp_path / "a")["records"] != outcome(toy_run)["records"]
    name = files.read_json(toy_run / "experiment.json")["ids"]["replace"]["0"][0]
    given = toy_run / "generations" / name / "checkpoint" / "fitted"
    assert cli.main(["run", *warm[:1], f"--workdir={tmp_path / 'b'}", f"--config.train.init={given}",
                     "--config.train.learning_rate=1e-9", "--config.generations=1"]) == 0  # fmt: skip
    loss = {r["seed"]: r["value"] for r in records(tmp_path / "b") if r["metric"] == "test_loss"}
    first = {
        r["seed"]: r["value"] for r in records(toy_run) if r["metric"] == "test_loss" and r["generation"] == 1
    }
    assert loss[0] == loss[1] == pytest.approx(first[0], abs=1e-6)


def test_divergence_is_a_result(tmp_path, capsys):
    hot = ["run", f"--config={CONFIG}", f"--workdir={tmp_path}", "--config.train.learning_rate=1e38",
           "--config.train.clip=1e38", "--config.seeds=(0,)"]  # fmt: skip
    assert cli.main(hot) == 1
    assert "diverged at generation 1" in capsys.readouterr().err
    found = {r["metric"]: r["value"] for r in records(tmp_path)}
    assert found == {"test_loss": None, "train_loss": None}
    assert [m["status"] for m in manifests(tmp_path).values()] == ["diverged"]
    assert (tmp_path / "report.html").exists()


def test_samples_that_are_not_finite_are_divergence(tmp_path, capsys, monkeypatch):
    import toy

    sample = toy.Toy.sample

    def gone(self, model, keys_B, rows_B):
        x = sample(self, model, keys_B, rows_B)["x"]
        return {"x": jnp.where(rows_B["x"] > 0, x.astype(jnp.float32), jnp.nan)}

    monkeypatch.setattr(toy.Toy, "sample", gone)
    assert cli.main(["run", f"--config={CONFIG}", f"--workdir={tmp_path}", "--config.seeds=(0,)"]) == 1
    assert "diverged at generation 1" in capsys.readouterr().err
    assert [m["status"] for m in manifests(tmp_path).values()] == ["diverged"]

    fitted = {r["metric"]: r["value"] for r in records(tmp_path)}
    assert fitted["test_loss"] > 0


@pytest.mark.slow
def test_sweep_points_share_a_store(tmp_path):
    assert cli.main(["run", f"--config={CONFIG}", f"--workdir={tmp_path}", "--sweep", "--config.generations=1",
                     "--config.seeds=(0,)"]) == 0  # fmt: skip
    assert {p.name for p in tmp_path.iterdir()} == {"point-000", "point-001", "store"}
    assert cli.main(["run", f"--config={CONFIG}", f"--workdir={tmp_path}", "--sweep=2"]) == 2


def test_sample_prints_the_rows_of_the_store(toy_run, capsys):
    name = files.read_json(toy_run / "experiment.json")["ids"]["replace"]["1"][1]
    assert cli.main(["sample", str(toy_run), f"--generation={name[:8]}", "-n", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = files.read_json(toy_run / "generations" / name / "show.json")["lines"]
    assert lines[1::2] == shown[:3] and lines[::2] == [f"--- sample {index} ---" for index in range(3)]


def test_plan_writes_no_generation(tmp_path, capsys):
    assert cli.main(["plan", f"--config={CONFIG}", f"--workdir={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert "18 = 14 to fit + 4 shared" in out and not (tmp_path / "generations").exists()


@pytest.mark.slow
def test_no_program_is_compiled_after_generation_one(tmp_path):
    done = collapse("run", f"--config={CONFIG}", f"--workdir={tmp_path}", "--config.seeds=(0,)")
    assert done.returncode == 0, done.stderr
    assert "programs for generation 1, 0 after it" in done.stdout


def test_every_stage_is_timed(toy_run):
    lines = [json.loads(x) for x in (toy_run / "timings.jsonl").read_text().splitlines()]
    assert {x["stage"] for x in lines} == {"fit", "evaluate", "sample", "measure", "commit"}
