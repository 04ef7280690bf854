"""Two processes of four devices each: the same generations as one process, also when one of them is killed."""

import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from conftest import CONFIG, TESTS, collapse, outcome
from forced_devices import flags
from test_lanes import values

from collapse_jax import cli, processes

ARGUMENTS = [f"--config={CONFIG}", "--config.seeds=(0,)", "--config.generations=2"]


def pair(workdir, *arguments, kill_at=("", "")):
    """Two `collapse run` processes of one run: their exit codes and errors."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{s.getsockname()[1]}"
    started = []
    for index in range(2):
        environment = os.environ | {
            "XLA_FLAGS": flags(4),
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": str(index),
            "COLLAPSE_KILL_AT": kill_at[index],
        }
        command = [
            sys.executable,
            str(TESTS / "toy_cli.py"),
            "run",
            *ARGUMENTS,
            f"--workdir={workdir}",
            *arguments,
        ]
        started.append(
            subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    texts = [process.communicate(timeout=300) for process in started]
    return [process.returncode for process in started], [out + err for out, err in texts]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The outcome of one process with the same eight devices."""
    workdir = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", flags(8))
        done = collapse("run", *ARGUMENTS, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return workdir


def test_the_shards_of_one_process(alone, tmp_path):
    codes, texts = pair(tmp_path)
    assert codes == [0, 0], texts
    ours, theirs = outcome(tmp_path), outcome(alone)
    assert [g["shards"] for g in ours["generations"].values()] == [
        g["shards"] for g in theirs["generations"].values()
    ]
    a, b = values(tmp_path), values(alone)
    np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-6)
    assert "report:" in texts[0] and "report:" not in texts[1] and "WARNING" not in texts[1]
    assert cli.main(["verify", str(tmp_path)]) == 0


@pytest.mark.parametrize("kill_at", [("", "fit/step:9"), ("sample/shard:2", "")])
def test_resumed_after_one_process_was_killed(alone, tmp_path, kill_at):
    codes, _ = pair(tmp_path, kill_at=kill_at)
    assert codes[kill_at.index(max(kill_at))] == -signal.SIGKILL and 0 not in codes
    codes, texts = pair(tmp_path)
    assert codes == [0, 0], texts
    ours, theirs = outcome(tmp_path), outcome(alone)
    assert [g["shards"] for g in ours["generations"].values()] == [
        g["shards"] for g in theirs["generations"].values()
    ]


@pytest.mark.parametrize(("given", "line"), [
    ({"JAX_NUM_PROCESSES": "2"}, "JAX_COORDINATOR_ADDRESS"),
    ({"JAX_COORDINATOR_ADDRESS": "x:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"}, "JAX_PROCESS_ID=2"),
])  # fmt: skip
def test_half_a_cluster_is_refused(monkeypatch, capsys, tmp_path, given, line):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["run", *ARGUMENTS, f"--workdir={tmp_path / 'w'}"]) == 2
    assert line in capsys.readouterr().err and not (tmp_path / "w").exists()


def test_alone_everything_is_a_plain_call():
    assert processes.lead() and processes.shared(lambda: (1, 2)) == (1, 2)
    processes.barrier("nowhere")
