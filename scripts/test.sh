#!/usr/bin/env bash
# Makes .venv, installs what is needed and the test tools, then runs ruff and pytest, a process a core.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
pip install --quiet --disable-pip-version-check -r requirements-test.txt
ruff check .
ruff format --check .
OMP_NUM_THREADS=1 python -m pytest -n auto --maxprocesses 8 --dist loadfile "$@"
