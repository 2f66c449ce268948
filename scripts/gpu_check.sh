#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Everything that needs an NVIDIA GPU, in one command of less than ten minutes: build for this GPU, tests, memory and race
# checks of every kernel, the operators' benchmark, whole networks. Needs torch with CUDA, nvcc, cmake, ninja, pybind11.
#
#   scripts/gpu_check.sh [FOLDER]      results go to FOLDER (default: gpu_check)
#
# Every step runs whatever became of the ones before; the exit status is 1 if any failed, and the summary says which.
# With tensorrt or tensorrt-rtx, engines too are built, run, compared and timed: of the models in DEEPLAB_CHECK_MODELS
# (scripts/check_engine.py prepare FOLDER makes them), or of models made on the spot (needs the export extra).
set -u
out=${1:-gpu_check}
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-python3}
failed=""

step() {
  name=$1
  limit=$2
  shift 2
  begin=$(date +%s)
  timeout "$limit" "$@" >"$out/$name.log" 2>&1
  status=$?
  echo "$name: exit $status, $(($(date +%s) - begin)) s" | tee -a "$out/summary.txt"
  if [ $status -ne 0 ]; then
    failed="$failed $name"
    tail -n 15 "$out/$name.log"
  fi
}

: >"$out/summary.txt"
nvidia-smi >"$out/nvidia-smi.txt" 2>&1 || { echo "no NVIDIA GPU: nvidia-smi failed"; exit 1; }
export CMAKE_ARGS="-DCMAKE_CUDA_ARCHITECTURES=${DEEPLAB_GPU_ARCHITECTURES:-native} ${CMAKE_ARGS:-}"
step build 240 "$python" -m pip install --no-build-isolation --no-deps --no-index -e .
export PYTHONPATH="$PWD:$PWD/export:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH}"
step doctor 60 "$python" -m deeplab_infer.commands.doctor
step tests 240 "$python" -m pytest -q -m gpu -p no:cacheprovider tests
for tool in memcheck racecheck initcheck; do
  step "$tool" 90 compute-sanitizer --tool "$tool" --error-exitcode 9 "$python" scripts/run_every_kernel.py
done
step kernels 200 "$python" -m deeplab_bench.command kernels --device cuda --seconds 0.3 --json "$out/kernels_fp16.json" \
  --plot "$out/kernels_fp16.png" --markdown
step networks 120 "$python" -m deeplab_bench.command table --measure r18-d8_4xb2-80k_cityscapes-512x1024 \
  --measure r50-d8_4xb2-40k_cityscapes-512x1024 --size 1024x2048 --device cuda --seconds 2 --json "$out/networks.json" \
  --markdown
step networks_plain 120 "$python" -m deeplab_bench.command table --measure r18-d8_4xb2-80k_cityscapes-512x1024 \
  --measure r50-d8_4xb2-40k_cityscapes-512x1024 --size 1024x2048 --device cuda --seconds 2 --no-fused \
  --json "$out/networks_plain.json" --markdown
if "$python" -c "import tensorrt" 2>/dev/null || "$python" -c "import tensorrt_rtx" 2>/dev/null; then
  models=${DEEPLAB_CHECK_MODELS:-$out/models}
  [ -d "$models" ] || step engine_models 120 "$python" scripts/check_engine.py prepare "$models"
  step engines 240 "$python" scripts/check_engine.py run "$models" "$out/engines.json"
  cat "$out/engines.log"
  rm -rf "$out/models"
else
  echo "engines: skipped, neither tensorrt nor tensorrt_rtx can be imported" | tee -a "$out/summary.txt"
fi
cat "$out/kernels.log" "$out/networks.log" "$out/networks_plain.log"
cat "$out/summary.txt"
if [ -n "$failed" ]; then
  echo "failed:$failed"
  exit 1
fi
