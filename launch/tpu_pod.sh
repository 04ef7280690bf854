#!/usr/bin/env bash
# One experiment on every host of a Cloud TPU pod slice; the workdir is on a file system that all hosts mount:
#
#   TPU=my-slice ZONE=us-central2-b launch/tpu_pod.sh --config=configs/lm_text.py --workdir=/mnt/shared/run
#
# Run it again to resume.
set -euo pipefail
: "${TPU:?set TPU to the name of the slice}" "${ZONE:?set ZONE to its zone}"
gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command \
  "cd ~/collapse_jax && JAX_COMPILATION_CACHE_DIR=~/.cache/collapse_jax .venv/bin/collapse run $(printf '%q ' "$@")"
