#!/usr/bin/env bash
# Makes the released all-MiniLM-L6-v2 inverter and its tables in docs/results.md: on two cores about four hours.
#
#   runs/minilm.sh CORPUS OUT
#
# CORPUS holds the 14 parts named on the model card, as <part>.txt.zst; OUT gets shards, runs and tables.
# Killed at any moment, the same command goes on where it was.
#
# The released weights came from these three stages, with the deviations that experiments/LOG.md tells (2026-11-22).
set -euo pipefail
corpus=$1 out=$2
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"

stage() { # NAME MINUTES OPTION...
    unembed train configs/minilm.yaml --data "$out/shards" -o "$out/$1" --minutes "$2" --resume "${@:3}"
}
newest() { # the last checkpoint of a stage
    ls -d "$out/$1"/checkpoint-*[0-9] | tail -1
}

unembed prepare configs/minilm.yaml --texts "$corpus"/*.txt.zst -o "$out/shards"
stage long 49 --set data.short_share=0 --set training.batch_size=192 --set training.decay_share=0
stage short 40 --from "$(newest long)" --set data.short_share=1 --set training.batch_size=384 \
    --set training.decay_share=0 --set training.seed=1
stage mixed 65 --from "$(newest short)" --set training.seed=2

weights=src/unembed/weights/minilm texts="$out/shards/test.txt"
python runs/package.py "$out/mixed/inverter" $weights
evaluate() { # FILE OPTION...
    python runs/evaluate_table.py --precision bfloat16 --texts "$texts" -o "$out/$1" "${@:2}"
}
evaluate default.jsonl --limit 1000 --strategy confidence --steps 8
python runs/package.py $weights $weights --table "$out/default.jsonl"
evaluate table.jsonl --limit 500
evaluate short.jsonl --limit 500 --strategy confidence --steps 8 --tokens 12
python runs/guided_curve.py --precision bfloat16 --texts "$texts" --limit 24 --batch-size 12 -o "$out/guided.jsonl" \
    --plot docs/guided.svg
