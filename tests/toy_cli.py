"""`collapse` with the toy family added: what the fault tests start as a process of its own.

TOY_DEVICES, numbers with commas, is an order of the devices in place of their own, as the torus of a TPU has one.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np

from collapse_jax import cli, families, mesh

families.KINDS["toy"] = "toy"

order = [int(place) for place in os.environ.get("TOY_DEVICES", "").split(",") if place]
if order:
    mesh.arranged = lambda shape, devices: np.array(devices)[order].reshape(shape)

if __name__ == "__main__":
    sys.exit(cli.main())
