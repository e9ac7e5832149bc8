#!/usr/bin/env bash
# Makes the released all-MiniLM-L6-v2 inverter and its tables in docs/results.md: on two cores about fourteen hours,
# and nineteen minutes of a GPU.
#
#   runs/minilm.sh CORPUS OUT
#
# CORPUS holds the 14 parts named on the model card, as <part>.txt.zst; OUT gets shards, runs and tables.
# Killed at any moment, the same command goes on where it was.
#
# The released weights came from these eleven stages, with the deviations that experiments/LOG.md tells (2026-11-22, 25 to 28).
set -euo pipefail
corpus=$1 out=$2
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"

# The configuration has learned since (experiments/LOG.md, 2026-11-26); the first six stages were trained without that.
then=(--set diffusion.condition_dropout=0.1 --set diffusion.embedding_noise=0)
stage() { # NAME MINUTES OPTION...
    unembed train configs/minilm.yaml --data "$out/shards" -o "$out/$1" --minutes "$2" --resume --no-fit "${then[@]}" "${@:3}"
}
newest() { # the last checkpoint of a stage
    ls -d "$out/$1"/checkpoint-*[0-9] | tail -1
}

unembed prepare configs/minilm.yaml --texts "$corpus"/*.txt.zst -o "$out/shards"
blind=(--set diffusion.feedback_share=0)
stage long 49 "${blind[@]}" --set data.short_share=0 --set training.batch_size=192 --set training.decay_share=0
stage short 40 "${blind[@]}" --from "$(newest long)" --set data.short_share=1 --set training.batch_size=384 \
    --set training.decay_share=0 --set training.seed=1
stage mixed 80 "${blind[@]}" --from "$(newest short)" --set training.seed=2
stage feedback 100 --from "$(newest mixed)" --set training.batch_size=320 --set training.decay_share=0.5 \
    --set training.seed=5

weights=src/unembed/weights/minilm texts="$out/shards/test.txt"
python runs/average.py "$out/mixed/inverter" "$out/feedback/inverter" --share 0.5 -o "$out/average"
# From an average every rate first loses; low ones, decaying at once, lose least, and the token table hardly moves.
stage last 45 --from "$out/average" --set data.short_share=0.3 --set diffusion.feedback_share=0.12 \
    --set training.learning_rate=2.5e-4 --set training.final_learning_rate=1e-3 \
    --set training.table_learning_rate=2e-5 --set training.muon_learning_rate=1e-3 --set training.decay_share=1 \
    --set training.warmup_steps=20 --set training.seed=8
stage longer 105 --from "$out/last/inverter" --set training.batch_size=320 --set data.short_share=0.3 \
    --set diffusion.feedback_share=0.12 --set training.learning_rate=3e-4 --set training.final_learning_rate=1e-3 \
    --set training.table_learning_rate=3e-5 --set training.muon_learning_rate=1.5e-3 --set training.decay_share=1 \
    --set training.ema=0.995 --set training.seed=11
# What was learned since. The student below has learned from this token table, which therefore stays.
stage onward 58 --from "$out/longer/inverter" --set diffusion.condition_dropout=0 --set diffusion.embedding_noise=0.03 \
    --set training.freeze='[table]' --set training.batch_size=320 --set data.short_share=0.3 \
    --set diffusion.feedback_share=0.12 --set training.learning_rate=3e-4 --set training.final_learning_rate=1e-3 \
    --set training.muon_learning_rate=1.5e-3 --set training.decay_share=1 --set training.ema=0.995 --set training.seed=13
python runs/average.py "$out/longer/inverter" "$out/onward/inverter" --share 0.5 -o "$out/released"
# Twice as deep, on a GPU of 80 GB or more (an H200, lent: runs/remote; the first stage there with 3 % of the large parts).
gpu() { # NAME MINUTES FROM OPTION...
    unembed train configs/minilm_gpu.yaml --data "$out/shards" -o "$out/$1" --resume --no-fit --minutes "$2" --from "$3" "${@:4}"
}
slower=(--set training.batch_size=2048 --set training.learning_rate=1e-3 --set training.muon_learning_rate=6e-3 --set training.final_learning_rate=2e-3)
gpu card 0.85 "$out/released" "${slower[@]}" --set training.decay_share=0.6 --set training.warmup_steps=30 --set training.ema=0.98
# These two were cut off at their last checkpoint, after 120 s at full and 240 s at half of the highest rate.
gpu card2 2 "$out/card/inverter" "${slower[@]}" --set training.decay_share=0 --set training.warmup_steps=200 --set data.short_share=0.3
gpu card3 6.85 "$out/card2/inverter" --set training.seed=1
gpu card4 11.86 "$out/card3/inverter" --set training.seed=7  # with 42 % of the books
python runs/package.py "$out/card4/inverter" $weights --int8
# Fitted before this was one command: seeds 5, 0 and 1 for its steps, 233,472 texts for the student, other texts to calibrate with.
unembed fit $weights --data "$out/shards" --work "$out/fit" --minutes 206 --seed 5
evaluate() { # FILE OPTION...
    python runs/evaluate_table.py --texts "$texts" -o "$out/$1" "${@:2}"
}
evaluate default.jsonl --limit 1000 --strategy confidence --steps 8
python runs/package.py $weights $weights --int8 --table "$out/default.jsonl"
evaluate adaln-alone.jsonl --limit 1000 --strategy confidence --steps 8 --steering 0
evaluate table.jsonl --limit 300 --steps 8
evaluate passes.jsonl --limit 300 --strategy confidence --steps 1 --steps 2 --steps 4 --steps 8 --steps 16 --steps 32 \
    --plot docs/passes.svg
evaluate natural.jsonl --limit 1500 --strategy confidence --steps 8 --tokens natural
evaluate short.jsonl --limit 500 --strategy confidence --steps 8 --tokens 12
python runs/search_curve.py --texts "$texts" --limit 50 --tokens 6-16 --seconds 30 --plot docs/guided.svg -o "$out/guided-sentences.jsonl"
python runs/search_curve.py --texts "$texts" --limit 6 --tokens 32 --seconds 120 -o "$out/guided-passages.jsonl"
python runs/search_curve.py --texts bench/abstracts.txt --tokens natural --limit 20 --seconds 60 -o "$out/guided-abstracts.jsonl"
python runs/search_curve.py --texts "$texts" --limit 50 --tokens 6-16 --calls 400 -o "$out/guided-priced.jsonl"
evaluate candidates.jsonl --limit 250 --strategy confidence --steps 8 --candidates 8
python runs/defences.py --texts "$texts" --limit 150
python runs/words.py --data "$out/shards" --model $weights --texts 30000 --passes 3
python runs/samples.py

# The denoiser beside its autoregressive twin: the same 107,520 windows, one core each.
pair() { # NAME CAUSAL
    OMP_NUM_THREADS=1 unembed train configs/minilm.yaml --data "$out/shards" -o "$out/pair-$1" --resume --no-fit "${then[@]}" "${blind[@]}" \
        --set model.feedback=false --set model.causal="$2" --set training.steps=420 --set training.seed=21 \
        --set training.final_learning_rate=2e-3 --set training.validate_every=140
}
pair denoiser false &
pair twin true
wait
python runs/compare_autoregressive.py --denoiser "$out/pair-denoiser/inverter" --twin "$out/pair-twin/inverter" \
    --texts "$texts" -o "$out/compare.json"
