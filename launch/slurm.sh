#!/usr/bin/env bash
# One experiment on several nodes under SLURM, a process per GPU:
#
#   sbatch --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 launch/slurm.sh --config=configs/lm_text.py --workdir=/shared/run
#
# The workdir must be on a file system that all nodes see. Submit the same command again to resume.
#SBATCH --job-name=collapse
#SBATCH --signal=TERM@120
#SBATCH --open-mode=append
set -euo pipefail
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$HOME/.cache/collapse_jax}
srun --kill-on-bad-exit=1 collapse run "$@"
