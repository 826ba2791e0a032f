#!/usr/bin/env bash
# Runs once, when Gradescope builds the image. A CPU build of PyTorch keeps it small.
set -euo pipefail
root="${AUTOGRADER_ROOT:-/autograder}"
apt-get update -qq
apt-get install -y -qq python3-pip
python3 -m pip install --quiet --upgrade "uv>=0.8" || python3 -m pip install --quiet --break-system-packages "uv>=0.8"
export UV_COMPILE_BYTECODE=1
python3 -m uv venv --python 3.12 "$root/venv"
python3 -m uv pip install --quiet --python "$root/venv/bin/python" --torch-backend cpu \
  --constraint "$root/source/constraints.txt" --requirement "$root/source/requirements.txt"
