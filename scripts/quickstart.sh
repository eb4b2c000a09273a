#!/usr/bin/env bash
# Makes .venv, installs what is needed, and trains the built-in scene to an int8 file.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
python run_nerf_qat.py --config configs/demo_qat.txt "$@"
