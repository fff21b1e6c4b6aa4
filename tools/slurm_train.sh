#!/usr/bin/env bash
# Train in a Slurm job on GPUS GPUS (default 8), GPUS_PER_NODE on each node (default: up to 8),
# with CPUS_PER_TASK cores for each GPU (default 5) and SRUN_ARGS as further arguments of srun.
# OPTIONS are those of tools/train.py.
set -euo pipefail
TOOLS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$TOOLS/launch.sh"
(($# >= 3)) || { echo "usage: slurm_train.sh PARTITION JOB_NAME CONFIG [OPTIONS...]" >&2; exit 2; }

slurm_run "$1" "$2" "$TOOLS/dist_train.sh" "$3" -- "${@:4}"
