#!/usr/bin/env bash
# One experiment on every host of a Cloud TPU slice that is there already:
#
#   TPU=my-slice ZONE=us-central2-b launch/tpu_pod.sh --config=configs/lm_text.py --workdir=/mnt/shared/run
#
# Every host has this repository in ~/collapse_jax, `.[tpu]` installed in its .venv, and the workdir's file system
# mounted. The hosts find each other through the slice's metadata. A run may not outlive the connection; run it
# again to resume.
set -euo pipefail
: "${TPU:?set TPU to the name of the slice}" "${ZONE:?set ZONE to its zone}"
gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command \
  "cd ~/collapse_jax && JAX_COMPILATION_CACHE_DIR=~/.cache/collapse_jax .venv/bin/collapse run $(printf '%q ' "$@")"
