"""Run a program in a process of its own with several fake devices and read the JSON it prints last."""

import json
import os
import subprocess
import sys
from pathlib import Path


def flags(devices):
    """XLA_FLAGS of a process with so many fake devices, beside those that the tests run with."""
    return f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"


def run(program, devices):
    env = os.environ | {
        "XLA_FLAGS": flags(devices),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
