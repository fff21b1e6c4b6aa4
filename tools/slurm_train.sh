#!/usr/bin/env bash
# Train in a Slurm job on GPUS GPUS (default 8), GPUS_PER_NODE on each node (default: up to 8),
# with CPUS_PER_TASK cores for each GPU (default 5) and SRUN_ARGS as further arguments of srun.
# WARNING seconds (default 120) before its time is up the run saves a checkpoint and ends with 75.
# REQUEUE=1 queues the job with sbatch (SBATCH_ARGS), and again with --resume whenever that happens.
# OPTIONS are those of tools/train.py.
set -euo pipefail
TOOLS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$TOOLS/launch.sh"
(($# >= 3)) || { echo "usage: slurm_train.sh PARTITION JOB_NAME CONFIG [OPTIONS...]" >&2; exit 2; }

slurm_run "$1" "$2" "$TOOLS/dist_train.sh" "$3" -- "${@:4}"
