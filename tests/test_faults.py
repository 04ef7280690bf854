"""Whatever happens to a run, the finished experiment is the one that nothing happened to."""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from conftest import CONFIG, TESTS, collapse, outcome, start

from collapse_jax import cli, files
from collapse_jax.files import sealed

SMALL = [
    f"--config={CONFIG}", "--config.seeds=(0,)", "--config.generations=2", "--config.train.log_every=2",
]  # fmt: skip

# Every stage of every kind of generation: the first, one that has a parent, one that is sampled in two shards.
POINTS = [
    "fit/step:5", "fit/checkpoint:1", "fit/checkpoint:3", "fit/end:2", "fit/saved:1", "fit/finished:1",
    "evaluate/end:1",
    "sample/batch:2", "sample/shard:1", "sample/shard:5", "measure/end:2", "commit/before:1", "commit/after:2",
    "records/written:1", "write/progress.json:4", "write/manifest.json:2", "write/metrics.json:3",
    "write/records.jsonl:2", "write/recipe.json:3", "write/experiment.json:2", "write/show.json:1",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """Processes share compiled programs: what is tested is the disk, not the compiler."""
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    yield
    del os.environ["JAX_COMPILATION_CACHE_DIR"], os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"]


@pytest.fixture(scope="module")
def untouched(tmp_path_factory) -> dict:
    """The outcome of a run that nothing happened to."""
    workdir = tmp_path_factory.mktemp("untouched")
    done = collapse("run", *SMALL, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return outcome(workdir) | {"curves": curves(workdir)}


def curves(workdir: Path) -> dict[str, list[int]]:
    """The logged steps of every fit, each there once."""
    logs = (workdir / "logs").glob("*.jsonl")
    steps = {p.name: [json.loads(line)["step"] for line in p.read_text().splitlines()] for p in logs}
    for told in steps.values():
        assert [s for s in told if s % 2 == 0] == list(range(2, told[-1] + 1, 2))  # log_every=2
    return steps


def resume(workdir: Path) -> dict:
    assert cli.main(["run", *SMALL, f"--workdir={workdir}"]) == 0
    assert cli.main(["verify", str(workdir)]) == 0
    assert not [p for p in workdir.glob("generations/*/checkpoint/*") if p.name.isdigit()]
    return outcome(workdir) | {"curves": curves(workdir)}


@pytest.mark.parametrize("point", [POINTS[0], *(pytest.param(p, marks=pytest.mark.slow) for p in POINTS[1:])])
def test_killed_at_a_point(untouched, tmp_path, point):
    killed = collapse("run", *SMALL, f"--workdir={tmp_path}", kill_at=point)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert resume(tmp_path) == untouched


@pytest.mark.slow
@pytest.mark.parametrize("number", range(2))
def test_killed_at_random_times_until_done(untouched, tmp_path, number):
    chance = random.Random(number)
    for _ in range(3):
        process = start("run", *SMALL, f"--workdir={tmp_path}")
        time.sleep(chance.uniform(1.0, 4.0))
        process.kill()
        process.communicate()
    assert resume(tmp_path) == untouched


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_asked_to_stop(untouched, tmp_path, signum):
    process = start("run", *SMALL, f"--workdir={tmp_path}", "--config.train.epochs=3")
    while not list(tmp_path.glob("generations/*/progress.json")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    asked = time.monotonic()
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - asked < 30
    assert process.returncode == 128 + signum and "run the same command again" in err
    assert resume(tmp_path) == untouched


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(
    "damage", [flip, lambda p: os.truncate(p, 7), os.unlink], ids=["flip", "cut", "miss"]
)
@pytest.mark.parametrize(
    "what", ["synthetic/part-*", "checkpoint/fitted/**/c/0", "metrics.json", "manifest.json"]
)
def test_damage_to_a_finished_run_is_found_and_mended(toy_run, tmp_path, capsys, what, damage):
    workdir = Path(shutil.copytree(toy_run, tmp_path / "run"))
    ids = files.read_json(workdir / "experiment.json")["ids"]["replace"]["0"]
    for path in sorted((workdir / "generations" / ids[0]).glob(what))[:1]:
        damage(path)
    if what != "manifest.json" or damage is flip:
        assert cli.main(["verify", str(workdir)]) == 1
    assert cli.main(["run", f"--config={CONFIG}", f"--workdir={workdir}"]) == 0
    assert "collapse: WARNING" in capsys.readouterr().err or damage is os.unlink
    assert outcome(workdir) == outcome(toy_run)
    assert cli.main(["verify", str(workdir)]) == 0


@pytest.mark.slow
def test_a_damaged_checkpoint_of_the_way_falls_back_to_the_one_before(untouched, tmp_path, capsys):
    often = [*SMALL, "--config.train.checkpoint_every=3", f"--workdir={tmp_path}"]
    collapse("run", *often, kill_at="fit/checkpoint:4")
    (folder,) = tmp_path.glob("generations/*/checkpoint")
    assert {p.name for p in folder.iterdir()} == {"6", "9", "12"}  # 12 was never written down
    flip(folder / "9" / "state" / "model.logits.value" / "c" / "0")
    assert resume(tmp_path) == untouched
    assert "checkpoint/9 is damaged" in capsys.readouterr().err
    assert (folder / "9.damaged-0").exists()


def test_parents_with_other_rows_make_children_stale(toy_run, tmp_path, capsys):
    """As if a parent had been sampled again on other hardware."""
    workdir = Path(shutil.copytree(toy_run, tmp_path / "run"))
    ids = files.read_json(workdir / "experiment.json")["ids"]["replace"]["0"]
    manifest = workdir / "generations" / ids[1] / "manifest.json"
    said = files.read_json(manifest)
    said["stages"]["fit"]["inputs"][ids[0]][0] = "0" * 64
    files.write_json(manifest, sealed(said))
    assert cli.main(["run", f"--config={CONFIG}", f"--workdir={workdir}"]) == 0
    assert "no longer hold" in capsys.readouterr().err
    assert outcome(workdir) == outcome(toy_run)
    assert list((workdir / "generations").glob("*.stale-0"))


@pytest.mark.slow
def test_two_runs_on_one_store(tmp_path):
    first = start("run", *SMALL, f"--workdir={tmp_path / 'a'}", f"--store={tmp_path / 's'}")
    while not (tmp_path / "s" / "lock").exists():
        assert first.poll() is None, first.communicate()
        time.sleep(0.01)
    time.sleep(0.2)
    second = collapse("run", *SMALL, f"--workdir={tmp_path / 'b'}", f"--store={tmp_path / 's'}")
    assert second.returncode == 2 and f"in use by process {first.pid}" in second.stderr
    first.communicate(timeout=120)
    assert first.returncode == 0


def test_a_full_disk_loses_nothing(untouched, tmp_path, monkeypatch, capsys):
    real = files.write_text

    def full(path: Path, text: str) -> None:
        if path.name == "manifest.json":
            raise OSError(28, "No space left on device", str(path))
        real(path, text)

    monkeypatch.setattr(files, "write_text", full)
    assert cli.main(["run", *SMALL, f"--workdir={tmp_path}"]) == 1
    assert "No space left" in (said := capsys.readouterr().err) and said.count("\n") == 1
    monkeypatch.undo()
    assert resume(tmp_path) == untouched


def test_a_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    done = collapse("run", *SMALL, f"--workdir={tmp_path / 'file' / 'w'}")
    assert done.returncode == 2 and "cannot write in" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(("arguments", "said"), [
    (["--config.train.batch_siz=4"], "batch_siz"),
    (["--config.train.batch_size=0"], "train.batch_size=0 must be at least 1"),
    (["--config.train.batch_size=289"], "less than one batch"),
    (["--config.train.microbatches=3"], "not divisible"),
    (["--config.train.learning_rate=nan"], "must be finite"),
    (["--config.generations=0"], "generations=0 must be at least 1"),
    (["--config.generations=-5"], "must be at least 1"),
    (["--config.seeds=()"], "seeds=()"),
    (["--config.seeds=(1,1)"], "repeats a seed"),
    (["--config.rows=97"], "needs 97 real training rows and there are 96"),
    (["--config.arms.replace.workflow=replac"], "not one of replace"),
    (["--config.mesh.model=3"], "mesh.model=3"),
    (["--config.train.init=nowhere"], "neither 'fresh', 'parent' nor a checkpoint folder"),
    (["config.generations=2"], "stray argument"),
    (["stray"], "stray argument"),
    (["--verbose"], "verbose"),
])  # fmt: skip
def test_bad_input_gets_one_line_before_anything_is_written(tmp_path, capsys, arguments, said):
    code = cli.main(["run", f"--config={CONFIG}", f"--workdir={tmp_path / 'w'}", *arguments])
    err = capsys.readouterr().err
    assert code == 2 and said in err and err.count("\n") == 1
    assert not (tmp_path / "w" / "experiment.json").exists() and not (tmp_path / "w" / "generations").exists()


@pytest.mark.parametrize("arguments", [
    [], ["walk"], ["run"], ["run", "--config=none.py", "--workdir=x"], ["verify", "nowhere"], ["report", "nowhere"],
    ["sample", "nowhere", "--generation=a"], ["verify", "a", "--deep"], ["run", f"--conf={CONFIG}", "--workdir=x"],
])  # fmt: skip
def test_bad_commands(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_toy_stands_outside_the_package():
    """The chain names no family."""
    package = TESTS.parent / "collapse_jax"
    for name in ("experiment.py", "chain.py", "run.py", "lineage.py", "training/step.py", "training/loop.py"):
        text = (package / name).read_text()
        names = [w for w in ("transformer.", "vae", "diffusion", "import transformer") if w in text]
        assert not names, (name, names)
