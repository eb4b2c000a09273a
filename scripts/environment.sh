# Sourced by the other scripts from the repository's root: makes .venv if need be and enters it.
python_command=${PYTHON:-}
if [ -z "$python_command" ]; then
    for candidate in python3.11 python3.12 python3; do
        if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then
            python_command=$candidate
            break
        fi
    done
fi
if [ -z "$python_command" ]; then
    echo "error: no Python 3.11 or 3.12 found; install one, or set PYTHON=/path/to/python" >&2
    exit 2
fi
[ -x .venv/bin/python ] || "$python_command" -m venv .venv
# shellcheck disable=SC1091
source .venv/bin/activate
pip install --quiet --disable-pip-version-check -r requirements.txt
