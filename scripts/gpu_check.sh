#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Everything that needs an NVIDIA GPU, in one command of less than ten minutes: build for this GPU, tests, operators,
# the published table, training, other projects, engines, memory and race checks. Needs torch with CUDA, nvcc, cmake, ninja, pybind11.
#
#   scripts/gpu_check.sh [FOLDER]      results go to FOLDER (default: gpu_check)
#
# Every step runs whatever became of the ones before; the exit status is 1 if any failed, and the summary says which.
# DEEPLAB_CHECK_SECONDS (default 570) is shared among the steps: the table and the peers take what the others leave.
# DEEPLAB_WHEELS: a folder of wheels (.whl) that the machine lacks, installed for this run only: tensorrt or tensorrt-rtx
# with cuda-python for engines, mmsegmentation and its requirements for the peers, nvidia-ml-py, onnxscript. A TensorRT
# library that is in no wheel is found through LD_LIBRARY_PATH.
# DEEPLAB_CHECK_MODELS: models to build engines of (scripts/check_engine.py prepare FOLDER makes them; else made here).
# What to keep afterwards: FOLDER/*.json under benchmarks/results/<gpu>/, then
#   deeplab-bench report benchmarks/results/*.json benchmarks/results/*/*.json --format md -o benchmarks/results/README.md
set -u
out=${1:-gpu_check}
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-python3}
deadline=$(($(date +%s) + ${DEEPLAB_CHECK_SECONDS:-570}))
failed=""

# left RESERVE: seconds until the deadline, less those that later steps need; at least one
left() {
  seconds=$((deadline - $(date +%s) - $1))
  [ $seconds -gt 0 ] && echo $seconds || echo 1
}

# step NAME LIMIT RESERVE COMMAND...
step() {
  name=$1
  limit=$2
  seconds=$(left "$3")
  [ "$seconds" -lt "$limit" ] && limit=$seconds
  shift 3
  if [ "$limit" -lt 5 ]; then
    echo "$name: left out, no time" | tee -a "$out/summary.txt"
    failed="$failed $name"
    return
  fi
  begin=$(date +%s)
  # An interrupted benchmark writes down what it has; one that does not listen is killed.
  timeout --signal=INT --kill-after=10 "$limit" "$@" >"$out/$name.log" 2>&1
  status=$?
  echo "$name: exit $status, $(($(date +%s) - begin)) s" | tee -a "$out/summary.txt"
  if [ $status -ne 0 ]; then
    failed="$failed $name"
    tail -n 15 "$out/$name.log"
  fi
}

skip() {
  echo "$1: skipped, $2" | tee -a "$out/summary.txt"
}

can_import() {
  "$python" -c "import $1" 2>/dev/null
}

: >"$out/summary.txt"
nvidia-smi >"$out/nvidia-smi.txt" 2>&1 || { echo "no NVIDIA GPU: nvidia-smi failed"; exit 1; }
export CMAKE_ARGS="-DCMAKE_CUDA_ARCHITECTURES=${DEEPLAB_GPU_ARCHITECTURES:-native} ${CMAKE_ARGS:-}"
step build 200 0 "$python" -m pip install --no-build-isolation --no-deps --no-index -e .
export PYTHONPATH="$PWD:$PWD/export:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH}"
if [ -n "${DEEPLAB_WHEELS:-}" ]; then
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  step wheels 60 0 "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$DEEPLAB_WHEELS"/*.whl
  rm -rf "$site/tests" "$site/yapftests" # mmsegmentation's wheel brings them, and they would hide ours
  export PYTHONPATH="$PYTHONPATH:$site"
fi
bench="$python -m deeplab_bench.command"
step doctor 30 0 "$python" -m deeplab_infer.commands.doctor
step tests 150 330 "$python" -m pytest -q -m gpu -p no:cacheprovider tests
step kernels 90 310 $bench kernels --device cuda --seconds 0.2 --json "$out/kernels_fp16.json" \
  --plot "$out/kernels_fp16.png" --markdown
# The rows with a printed fps; R-50, R-101 and R-18 at 1024x2048 come first by themselves.
step table "$(left 260)" 220 $bench table --device cuda --seconds 1 --budget "$(left 260)" --train-memory \
  --json "$out/table.json" --markdown
# The smallest batch, where launches count, and a large one; each way once, then again in turns if there is time.
training="$bench train --device cuda --batch 2 --batch 16 --amp bf16 --seconds 1"
step train 80 150 $training --variant plain --variant fused --variant fused+activations --budget 65 \
  --json "$out/train_r50_bf16.json" --markdown
step layers 30 130 $bench layers random:deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024 --size 1024x2048 \
  --device cuda --precision fp16 --json "$out/layers_r50_fp16.json" --markdown
if can_import mmseg || can_import mmengine; then
  step peers 70 90 $bench peers --device cuda --peer mmsegmentation --seconds 0.5 --rounds 2 --budget "$(left 100)" \
    --json "$out/peers.json" --markdown
else
  skip peers "mmsegmentation cannot be imported; give its wheels in DEEPLAB_WHEELS"
fi
if can_import tensorrt || can_import tensorrt_rtx; then
  models=${DEEPLAB_CHECK_MODELS:-$out/models}
  [ -d "$models" ] || step engine_models 60 70 "$python" scripts/check_engine.py prepare "$models"
  step engines 100 60 "$python" scripts/check_engine.py run "$models" "$out/engines.json"
  cat "$out/engines.log"
  rm -rf "$out/models"
else
  skip engines "neither tensorrt nor tensorrt_rtx can be imported; give their wheels in DEEPLAB_WHEELS"
fi
for tool in memcheck racecheck initcheck; do
  step "$tool" 60 0 compute-sanitizer --tool "$tool" --error-exitcode 9 "$python" scripts/run_every_kernel.py
done
if [ "$(left 30)" -ge 200 ]; then # what the others left
  step train_compiled "$(left 30)" 30 $training --variant plain --variant plain+compiled --variant fused+compiled \
    --rounds 1 --budget "$(left 60)" --json "$out/train_r50_bf16_compiled.json" --markdown
else
  skip train_compiled "less than 200 s are left for it"
fi
ls "$out"/*.json >/dev/null 2>&1 && step report 30 0 $bench report $(ls "$out"/*.json | grep -v engines.json) \
  --format html -o "$out/report.html"
for name in tests kernels table train train_compiled layers peers; do
  [ -f "$out/$name.log" ] && tail -n 60 "$out/$name.log"
done
cat "$out/summary.txt"
if [ -n "$failed" ]; then
  echo "failed:$failed"
  exit 1
fi
