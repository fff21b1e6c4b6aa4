#!/usr/bin/env bash
# Run by srun on each node: tell COMMAND, a dist_*.sh, in its own words where it runs.
# Usage: slurm_node.sh COMMAND [ARGS...]
set -euo pipefail

export NNODES=$SLURM_STEP_NUM_NODES NODE_RANK=$SLURM_NODEID
if ((NNODES > 1)); then
    hosts=$(scontrol show hostnames "$SLURM_STEP_NODELIST")
    export MASTER_ADDR=${hosts%%$'\n'*}
    # Differs between the jobs, and the steps of a job, that share a node; below the ports that
    # Linux gives out by itself.
    export PORT=${PORT:-$((20000 + (SLURM_JOB_ID * 101 + SLURM_STEP_ID) % 10000))}
fi
exec bash "$@"
