#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the projects that tests/parity compares with, into the environment of the given Python.
# usage: scripts/install_peers.sh [PYTHON]
set -euo pipefail
python=${1:-python3}
# What the peers import, and no more: their own requirements would replace torch and OpenCV.
"$python" -m pip install -q scipy packaging addict termcolor yapf ftfy regex prettytable matplotlib rich pyyaml \
    pillow huggingface-hub tqdm safetensors
"$python" -m pip install -q --no-deps mmengine==0.10.7 mmcv-lite==2.1.0 mmsegmentation==1.2.2 \
    torchvision==0.28.0 timm==1.0.31 segmentation_models_pytorch==0.6.0
# The mmsegmentation wheel installs a package named "tests", which would hide ours.
"$python" - <<'PY'
import pathlib, shutil, sysconfig
site = pathlib.Path(sysconfig.get_path("purelib"))
for name in ("tests", "yapftests"):
    shutil.rmtree(site / name, ignore_errors=True)
PY
