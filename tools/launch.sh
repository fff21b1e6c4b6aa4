# Sourced by dist_*.sh and slurm_*.sh: how several processes are started.

fail() {
    echo "error: $1" >&2
    exit 2
}

is_count() {
    [[ $1 =~ ^[1-9][0-9]*$ ]]
}

# dist_run PROCESSES SCRIPT [ARGS...]: run SCRIPT in PROCESSES processes on this node, with torchrun.
dist_run() {
    local processes=$1
    shift
    is_count "$processes" || fail "the number of processes must be 1 or more, not '$processes'."

    local nnodes=${NNODES:-1} rendezvous
    if [[ $nnodes == 1 && -z ${PORT:-} ]]; then
        # torchrun itself binds a free port, so no other job can take it in between.
        rendezvous=(--standalone --local-addr=127.0.0.1)
    elif [[ $nnodes == 1 ]]; then
        rendezvous=(--master-addr=127.0.0.1 --master-port="$PORT")
    else
        [[ -n ${MASTER_ADDR:-} && -n ${NODE_RANK:-} ]] ||
            fail "NNODES=$nnodes needs MASTER_ADDR, the first node's address, and NODE_RANK, this node's number from 0."
        rendezvous=(--nnodes="$nnodes" --node-rank="$NODE_RANK"
            --master-addr="$MASTER_ADDR" --master-port="${PORT:-29500}")
    fi

    # One thread for each process, unless the user says more, keeps them from competing for cores.
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
    exec "${PYTHON:-python}" "$TOOLS/torchrun.py" "${rendezvous[@]}" \
        --nproc-per-node="$processes" "$@" --launcher pytorch
}

# slurm_run PARTITION JOB_NAME DIST_SCRIPT ARGS... -- OPTIONS...: run `DIST_SCRIPT ARGS... GPUS_PER_NODE
# OPTIONS...` once on each node of a Slurm job, and tell it WARNING seconds before the job's time is up.
# With REQUEUE=1 the job is queued, and again whenever it was interrupted.
slurm_run() {
    local partition=$1 job_name=$2 gpus=${GPUS:-8} command=()
    shift 2
    is_count "$gpus" || fail "GPUS must be 1 or more, not '$gpus'."
    local gpus_per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
    is_count "$gpus_per_node" || fail "GPUS_PER_NODE must be 1 or more, not '$gpus_per_node'."
    ((gpus % gpus_per_node == 0)) ||
        fail "GPUS=$gpus must be a multiple of GPUS_PER_NODE=$gpus_per_node."

    while [[ $1 != -- ]]; do
        command+=("$1")
        shift
    done
    shift
    local job=(--partition="$partition" --job-name="$job_name"
        --nodes=$((gpus / gpus_per_node)) --ntasks-per-node=1 --gres="gpu:$gpus_per_node"
        --cpus-per-task=$((gpus_per_node * ${CPUS_PER_TASK:-5})) --signal="USR1@${WARNING:-120}")
    command+=("$gpus_per_node" "$@")
    # shellcheck disable=SC2086  # SRUN_ARGS and SBATCH_ARGS hold several arguments
    if [[ ${REQUEUE:-0} == 1 ]]; then
        exec sbatch "${job[@]}" --requeue --open-mode=append ${SBATCH_ARGS:-} \
            --wrap="$(printf '%q ' bash "$TOOLS/slurm_job.sh" "${command[@]}" --resume)"
    fi
    # shellcheck disable=SC2086
    exec srun "${job[@]}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
        bash "$TOOLS/slurm_node.sh" "${command[@]}"
}
