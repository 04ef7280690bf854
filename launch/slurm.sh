#!/usr/bin/env bash
# One experiment on several nodes under SLURM, a process per GPU:
#
#   sbatch --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 launch/slurm.sh --config=configs/lm_text.py --workdir=/shared/run
#
# `collapse` must be on the PATH, and the workdir on a file system that all nodes see. Two minutes before its time is
# over the run is asked to stop, saves and ends; submit the same command again to resume. Processes join in a step
# that srun starts; without srun each would run alone.
#SBATCH --job-name=collapse
#SBATCH --signal=TERM@120
#SBATCH --open-mode=append
set -euo pipefail
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$HOME/.cache/collapse_jax}
srun --kill-on-bad-exit=1 collapse run "$@"
