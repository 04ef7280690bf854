#!/usr/bin/env bash
# Speed on one GPU in under 8 minutes: training and sampling of three language models, and seeds side by side.
#
#   launch/gpu_bench.sh OUT [SCRIPT.py]
#
# OUT receives one JSON line per measurement. SCRIPT.py, if given, is a PyTorch program with the options
# --task train --config NAME --mode compile --dtype bf16 --device cuda --seconds S that prints one JSON line;
# it is run in turn with ours on the same card.
set -euo pipefail
out=${1:?usage: launch/gpu_bench.sh OUT [SCRIPT.py]}
script=${2:-}
cd "$(dirname "$0")/.."
store=$(mktemp -d)
trap 'rm -rf "$store"' EXIT
export JAX_COMPILATION_CACHE_DIR=$store/programs

ours() {
  echo "{\"name\": \"$1\", \"ours\": $(collapse bench --config="configs/bench/gpu.py:$1" --store="$store" --json --seconds=5 "${@:2}")}" |
    tee -a "$out"
}
theirs() {
  if [ -n "$script" ]; then
    echo "{\"name\": \"$1\", \"theirs\": $(python "$script" --task train --config "$1" --mode compile --dtype bf16 --device cuda --seconds 5)}" |
      tee -a "$out"
  fi
}

for round in 1 2; do
  for name in gpt2_9m gpt2_124m; do
    ours "$name"
    theirs "$name"
  done
done
ours llama2_126m
# eight seeds side by side against one at a time, for a model of a million parameters
small=(--config.model.layers=4 --config.model.width=128 --config.model.heads=4 --config.model.context=256
  --config.model.vocab_size=512 --config.data.row_length=256 --config.data.vocab_size=512)
ours gpt2_9m "${small[@]}"
ours gpt2_9m "${small[@]}" "--config.seeds=(0,1,2,3,4,5,6,7)" --config.together=8
ours gpt2_9m "${small[@]}" "--config.seeds=(0,1,2,3,4,5,6,7)" --config.together=8 --config.train.dispatch=8
