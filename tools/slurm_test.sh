#!/usr/bin/env bash
# Test in a Slurm job. OPTIONS are those of tools/test.py; the environment is that of
# slurm_train.sh.
set -euo pipefail
TOOLS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$TOOLS/launch.sh"
(($# >= 4)) || {
    echo "usage: slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [OPTIONS...]" >&2
    exit 2
}

REQUEUE=0 slurm_run "$1" "$2" "$TOOLS/dist_test.sh" "$3" "$4" -- "${@:5}"
