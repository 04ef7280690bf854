"""Which processes run together, from the environment: (address of the coordinator, processes, index of this one)."""

import os
import warnings
from typing import Any

from collapse_jax.config import BadInput

EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def explicit() -> tuple[str, int, int] | None:
    """(address, processes, index) as the environment says it, None when it says nothing."""
    there = [name for name in EXPLICIT if name in os.environ]
    if not there:
        return None
    if os.environ.get("JAX_NUM_PROCESSES") == "1":
        return "", 1, 0
    if len(there) < len(EXPLICIT):
        missing = ", ".join(name for name in EXPLICIT if name not in there)
        raise BadInput(f"{there[0]} is set but not {missing}; set all three, or none for one process")
    address, count, index = (os.environ[name] for name in EXPLICIT)
    if not (count.isdigit() and index.isdigit() and int(index) < int(count)):
        raise BadInput(f"JAX_PROCESS_ID={index} is not one of JAX_NUM_PROCESSES={count}, counted from 0")
    return address, int(count), int(index)


def detected(patience_s: int) -> tuple[str, int, int] | None:
    """(address, processes, index) in the cluster that JAX finds itself in, None where there is none.

    JAX knows Cloud TPU slices, the steps of SLURM, Open MPI and indexed jobs of Kubernetes. `patience_s` is how long
    the name of process 0's host may take to be known.
    """
    # what `jax.distributed.initialize` asks, which cannot answer "alone"
    from jax._src.clusters import ClusterEnv

    kind: Any = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind = next((k for k in ClusterEnv._cluster_types if _possible(k) and k.is_env_present()), None)
        if kind is None or (count := kind.get_process_count()) == 1:
            return None
        port = os.environ.get("JAX_COORDINATOR_PORT")
        return kind.get_coordinator_address(patience_s, port), count, kind.get_process_id()
    except Exception as error:
        # of many kinds: variables that are no numbers, a metadata server that is silent
        name, reason = kind.__name__ if kind else "a cluster", " ".join(str(error).split())[:200]
        raise BadInput(
            f"JAX finds itself in {name} but cannot tell who is there ({reason}); set JAX_NUM_PROCESSES=1 to "
            f"run alone, or {', '.join(EXPLICIT)}"
        ) from error


def _possible(kind: Any) -> bool:
    """Whether to ask for a kind of cluster.

    A step of one task may be shown the tasks of its whole job; a pod may belong to no indexed job.
    """
    env = os.environ
    unasked = {
        "SlurmCluster": env.get("SLURM_STEP_NUM_TASKS") == "1",
        "K8sCluster": "JOB_COMPLETION_INDEX" not in env,
    }
    return not (kind.opt_in_only_method or unasked.get(kind.__name__, False))
