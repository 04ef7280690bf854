"""Two processes of four devices each: the same generations as one process, also when one of them is killed."""

import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from conftest import CONFIG, TESTS, collapse, outcome
from forced_devices import flags
from test_lanes import values

from collapse_jax import cli, cluster, peers, processes
from collapse_jax.config import BadInput

ARGUMENTS = [f"--config={CONFIG}", "--config.seeds=(0,)", "--config.generations=2"]


TORUS = "0,4,1,5,2,6,3,7"  # as a v5p slice of 2 x 2 x 2 has its devices: a host's are no neighbours


def begin(workdir, *arguments, kill_at=("", ""), order=""):
    """Two `collapse run` processes of one run."""
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
            "TOY_DEVICES": order,
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
    return started


def ended(started):
    """Exit codes and what was printed."""
    texts = [process.communicate(timeout=300) for process in started]
    return [process.returncode for process in started], [out + err for out, err in texts]


def pair(*arguments, **options):
    return ended(begin(*arguments, **options))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The outcome of one process with the same eight devices."""
    workdir = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", flags(8))
        done = collapse("run", *ARGUMENTS, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.mark.slow
def test_the_shards_of_one_process_whatever_the_order_of_devices(alone, tmp_path):
    codes, texts = pair(tmp_path, order=TORUS)
    assert codes == [0, 0], texts
    ours, theirs = outcome(tmp_path), outcome(alone)
    assert [g["shards"] for g in ours["generations"].values()] == [
        g["shards"] for g in theirs["generations"].values()
    ]
    a, b = values(tmp_path), values(alone)
    np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-6)
    assert "report:" in texts[0] and "report:" not in texts[1] and "WARNING" not in texts[1]
    assert cli.main(["verify", str(tmp_path)]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("kill_at", [("", "fit/step:9"), ("sample/shard:2", "")])
def test_resumed_after_one_process_was_killed(alone, tmp_path, kill_at):
    codes, texts = pair(tmp_path, kill_at=kill_at)
    victim = kill_at.index(max(kill_at))
    assert codes == [-signal.SIGKILL if i == victim else 1 for i in range(2)]
    *_, line = texts[1 - victim].splitlines()
    assert (
        f"has lost process {victim}; run the same command again" in line
        and "Traceback" not in texts[1 - victim]
    )
    codes, texts = pair(tmp_path)
    assert codes == [0, 0], texts
    ours, theirs = outcome(tmp_path), outcome(alone)
    assert [g["shards"] for g in ours["generations"].values()] == [
        g["shards"] for g in theirs["generations"].values()
    ]


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_after_one_step(tmp_path):
    started = begin(tmp_path, "--config.train.epochs=100000", "--config.train.checkpoint_every=100000")
    while not list(tmp_path.glob("logs/*.jsonl")):  # begun with the fit
        assert started[1].poll() is None, ended(started)
        time.sleep(0.01)
    started[1].send_signal(signal.SIGHUP)
    codes, texts = ended(started)
    assert codes == [128 + signal.SIGHUP] * 2, texts
    assert all("stopped by SIGHUP; run the same command again" in text for text in texts)
    assert len(list(tmp_path.glob("generations/*/checkpoint/*"))) == 1


PROGRAM = """
import json, sys
from pathlib import Path
import jax
for name in json.loads(sys.argv[1]):
    __import__("os").environ.pop(name)
from collapse_jax import processes
def run():
    processes.initialize()
    print(jax.process_index(), processes.count(), processes.shared(lambda: "from 0"))
    return 0
raise SystemExit(processes.leave(run))
"""


def test_a_process_that_waits_for_the_others_in_vain():
    """In a process of its own that waits for a second in place of minutes."""
    short = PROGRAM.replace("def run", "processes.JOIN_S = 1\ndef run")
    where = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{peers.free_port()}", "JAX_NUM_PROCESSES": "2"}
    environment = os.environ | where | {"JAX_PROCESS_ID": "1", "PYTHONPATH": str(TESTS.parent)}
    command = [sys.executable, "-c", short, "[]"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "process 1 of 2 waited" in done.stderr


def metadata(index):
    """The metadata server of worker `index` of a Cloud TPU VM, on loopback."""
    answers = {
        "agent-worker-number": str(index),
        "worker-network-endpoints": ",".join(["unknown:unknown:127.0.0.1"] * 2),
        "tpu-env": f"ACCELERATOR_TYPE: 'v4-16'\nWORKER_ID: '{index}'\n",
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            answer = answers.get(self.path.rsplit("/", 1)[1])
            self.send_response(404 if answer is None else 200)
            self.end_headers()
            self.wfile.write((answer or "").encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def test_hosts_of_a_cloud_tpu_slice_join():
    """They are told apart by the metadata server alone; no variable names them."""
    pytest.importorskip(
        "requests", reason="JAX asks the metadata server with requests, which comes with jax[tpu]"
    )
    servers, port, started = [metadata(index) for index in range(2)], str(peers.free_port()), []
    for server in servers:
        environment = os.environ | {
            "JAX_FORCE_TPU_INIT": "1",
            "JAX_PLATFORMS": "cpu",
            "JAX_COORDINATOR_PORT": port,
            "GCE_METADATA_IP": f"127.0.0.1:{server.server_port}",
            "PYTHONPATH": str(TESTS.parent),
        }
        # JAX sets it where there is no chip, which is here but not on such a VM
        command = [sys.executable, "-c", PROGRAM, '["TPU_SKIP_MDS_QUERY"]']
        started.append(
            subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    codes, texts = ended(started)
    for server in servers:
        server.shutdown()
        server.server_close()
    assert codes == [0, 0] and ["0 2 from 0" in texts[0], "1 2 from 0" in texts[1]] == [True, True], texts


STEP = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_NODELIST": "node[3-4]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
}


@pytest.mark.parametrize(("there", "answer"), [
    ({}, None),
    (STEP, ("node3:61517", 4, 1)),
    (STEP | {"SLURM_NTASKS": "1"}, None),
    (STEP | {"SLURM_STEP_NUM_TASKS": "1"}, None),  # an interactive step of a job of four tasks
    ({k: v for k, v in STEP.items() if "STEP" not in k}, None),  # in a job, but in none of its steps
    (STEP | {"SLURM_NTASKS": ""}, "SlurmCluster"),
    (STEP | {"SLURM_PROCID": "first"}, "SlurmCluster"),
    ({"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911", "OMPI_COMM_WORLD_SIZE": "2",
      "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}, ("10.96.0.1:62624", 2, 1)),
    ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
])  # fmt: skip
def test_what_a_cluster_says(monkeypatch, there, answer):
    for name in [name for name in os.environ if name.startswith(("SLURM_", "OMPI_", "KUBERNETES_", "TPU_"))]:
        monkeypatch.delenv(name)
    for name, value in there.items():
        monkeypatch.setenv(name, value)
    if isinstance(answer, str):
        with pytest.raises(BadInput, match=f"{answer} .* set JAX_NUM_PROCESSES=1 to run alone"):
            cluster.detected(1)
    else:
        assert cluster.detected(1) == answer


@pytest.mark.parametrize(("given", "line"), [
    ({"JAX_COORDINATOR_ADDRESS": "x", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}, "'x' is not HOST:PORT"),
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
