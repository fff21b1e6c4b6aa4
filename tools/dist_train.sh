#!/usr/bin/env bash
# Train with PROCESSES processes on this machine: one for each GPU, or any number on a machine
# without GPU. OPTIONS are those of tools/train.py.
# On several machines, start it on each with NNODES, NODE_RANK and MASTER_ADDR in the environment.
# PORT defaults to a free one (29500 with several machines), PYTHON to python.
set -euo pipefail
TOOLS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$TOOLS/launch.sh"
(($# >= 2)) || { echo "usage: dist_train.sh CONFIG PROCESSES [OPTIONS...]" >&2; exit 2; }

dist_run "$2" "$TOOLS/train.py" "$1" "${@:3}"
