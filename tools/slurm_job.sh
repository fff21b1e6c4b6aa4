#!/usr/bin/env bash
# Run by sbatch: train on every node, and have the job queued again if it was interrupted.
# Usage: slurm_job.sh COMMAND [ARGS...]
set -euo pipefail
TOOLS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# The highest exit code of all nodes counts, so that none may be killed because another is done.
code=0
srun --kill-on-bad-exit=0 --wait=60 bash "$TOOLS/slurm_node.sh" "$@" || code=$?
((code != 75)) || exec scontrol requeue "$SLURM_JOB_ID"
exit "$code"
