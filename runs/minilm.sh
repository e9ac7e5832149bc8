#!/usr/bin/env bash
# Makes the released all-MiniLM-L6-v2 inverter and its table in docs/results.md.
#
#   runs/minilm.sh CORPUS OUT [MINUTES]
#
# CORPUS holds the 14 parts named on the model card, as <part>.txt.zst; OUT gets shards, run and table.
# Killed at any moment, the same command goes on where it was.
set -euo pipefail
corpus=$1 out=$2 minutes=${3:-70}
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"

unembed prepare configs/minilm.yaml --texts "$corpus"/*.txt.zst -o "$out/shards"
unembed train configs/minilm.yaml --data "$out/shards" -o "$out/run" --minutes "$minutes" --resume
python runs/package.py "$out/run/inverter" src/unembed/weights/minilm
python runs/evaluate_table.py --precision bfloat16 --texts "$out/shards/test.txt" --limit 500 -o "$out/table.jsonl"
python runs/package.py src/unembed/weights/minilm src/unembed/weights/minilm --table "$out/table.jsonl"
