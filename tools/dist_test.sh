#!/usr/bin/env bash
# Test with PROCESSES processes on this machine: one for each GPU, or any number on a machine
# without GPU. OPTIONS are those of tools/test.py; the environment is that of dist_train.sh.
set -euo pipefail
TOOLS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$TOOLS/launch.sh"
(($# >= 3)) || { echo "usage: dist_test.sh CONFIG CHECKPOINT PROCESSES [OPTIONS...]" >&2; exit 2; }

dist_run "$3" "$TOOLS/test.py" "$1" "$2" "${@:4}"
