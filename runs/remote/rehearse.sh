#!/usr/bin/env bash
# Rehearse it all on this machine, with 20 steps of a tiny denoiser, then 20 steps of feedback from what came back,
# compiled where there is a compiler. The other machine is an empty folder, FOLDER/there, and a shell from which
# FOLDER/here is not to be seen. SHARDS are small ones (unembed prepare --limit 2000).
#     bash runs/remote/rehearse.sh FOLDER CONFIG SHARDS
set -euo pipefail
code=$(realpath "$(dirname "$0")/../..") config=$(realpath "$2") data=$(realpath "$3") python=$(command -v python)
mkdir -p "$1/here" && cd "$1" && rm -rf there here/* && mkdir there
there() { # COMMAND
    (cd there && mv ../here ../away && trap 'mv ../away ../here' EXIT &&
        env -i HOME="$PWD" PATH="$PATH" OMP_NUM_THREADS=1 ACCELERATE_USE_CPU=1 bash -exc "$python $1")
}
tiny=(model.{width=64,blocks=2,heads=2,feed_forward=128,feedback=true} diffusion.{vocabulary_sample=60,feedback_share=0}
    training.{steps=20,batch_size=8,validation_texts=8,compile=false,freeze=[table],start_from_encoder=none})
feedback=(diffusion.feedback_share=0.6 "training.compile=$(command -v c++ > /dev/null && echo true || echo false)")
python "$code/runs/remote" pack "$config" --data "$data" -o here/loads
(cd "$code" && tar c --exclude weights --exclude __pycache__ src/unembed runs) | tar x -C there # the checkout travels
cp -r here/loads there
there "runs/remote unpack loads -o work"
there "work/code/runs/remote start work $(printf -- '--set %s ' "${tiny[@]}")"
there "work/code/runs/remote look work out --wait 900"
cp -r there/out here
python "$code/runs/remote" join here/out -o here/joined
python "$code/runs/remote" pack here/joined/inverter -o here/weights
cp -r here/weights there
there "runs/remote unpack loads weights -o again"
there "again/code/runs/remote start again $(printf -- '--set %s ' "${tiny[@]}" "${feedback[@]}")"
there "again/code/runs/remote look again again-out --wait 1800"
cp -r there/again-out here
python "$code/runs/remote" join here/again-out -o here/fed
du -ab --max-depth=2 here
