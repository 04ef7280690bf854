"""Shared: the environment every test runs in, the toy experiment run once, and collapse as a process."""

import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests make many small programs that run for milliseconds: a third of their time is saved by compiling quickly.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")

import jax
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from collapse_jax import families

families.KINDS["toy"] = "toy"

TESTS = Path(__file__).parent
CONFIG = str(TESTS / "toy_config.py")


def start(*arguments: str, kill_at: str = "", **options) -> subprocess.Popen:
    """`collapse ARGUMENTS` as a process of its own, perhaps killed at a named point."""
    environment = {**os.environ, "COLLAPSE_KILL_AT": kill_at, "PYTHONWARNINGS": "default"}
    command = [sys.executable, str(TESTS / "toy_cli.py"), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            **options)  # fmt: skip


def collapse(*arguments: str, kill_at: str = "") -> subprocess.CompletedProcess:
    process = start(*arguments, kill_at=kill_at)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.fixture(autouse=True)
def no_mesh():
    """Every test begins and ends without a mesh, whatever it has set."""
    jax.set_mesh(None)
    yield
    jax.set_mesh(None)


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory) -> Path:
    """The workdir of a finished toy experiment; copy it before changing anything."""
    from collapse_jax import cli

    workdir = tmp_path_factory.mktemp("toy")
    assert cli.main(["run", f"--config={CONFIG}", f"--workdir={workdir}"]) == 0
    return workdir


def outcome(workdir: Path) -> dict:
    """What must be the same however often a run was interrupted: records, shard and parameter digests."""
    import json

    generations = {}
    for manifest in sorted((workdir / "generations").glob("*/manifest.json")):
        said = json.loads(manifest.read_text())
        shards = {k: v["sha256"] for k, v in said["files"].items() if k.startswith("synthetic/")}
        generations[said["id"]] = {"parameters": said["parameters"], "shards": shards}
    return {"records": (workdir / "records.jsonl").read_text(), "generations": generations}
