#!/usr/bin/env bash
# All measurements that need a GPU, in at most 8 minutes after make setup, or the parts that are named:
#   benchmarks/gpu.sh [kernels] [operator] [networks] [memory] [runs] [compiled]
#   DEVICE=cpu benchmarks/gpu.sh ...   rehearses them without one, at tiny sizes, in work_dirs/gpu-rehearsal
# Nothing else may use the GPU meanwhile. The results lie in benchmarks/gpu/ (OUT=folder), each written as soon as it is
# there; summary.md says what was measured, and what was not as it failed or the time (MINUTES=8) was over.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}
device=${DEVICE:-cuda}
minutes=${MINUTES:-8}
peers=(Swin-T ConvNeXt-T VAN-B2 PoolFormer-S36)
if [ "$device" = cpu ]; then
    # Training PoolFormer in channels last crashed torch 2.11 on a processor with AVX2.
    peers=(Swin-T ConvNeXt-T VAN-B2)
    out=${OUT:-work_dirs/gpu-rehearsal}
    batch=2 side=32 sizes=(32x32) large=(32x64) channels=(--channels 8 16) dtypes=(float32) amp=() backend=auto
    tests=(-k every_precision) scale=0.01 precision=''
else
    out=${OUT:-benchmarks/gpu}
    batch=64 side=224 sizes=(224x224) large=(512x512 800x1333) channels=() dtypes=(float32 bfloat16 float16) amp=(--amp)
    backend=triton tests=() scale=0.2 precision=' bf16'
fi
mkdir -p "$out"
summary=$out/summary.md
printf '| step | result |\n| --- | --- |\n' > "$summary"

# step NAME COMMAND...: one measurement in the time that is left, and its row
step() {
    local left=$((minutes * 60 - SECONDS)) result='not measured: the time was over'
    if [ $left -gt 0 ]; then
        if timeout $left "${@:2}" > "$out/$1.log" 2>&1; then
            result=measured
            [ "$device" = cpu ] && result='not measured: rehearsed without a GPU'
        else
            result="not measured: exit code $?, see $1.log"
            failed=1
        fi
    fi
    echo "| $1 | $result |" | tee -a "$summary"
}

operator_step() {  # operator_step NAME OPTION...
    step "$1" "$python" benchmarks/benchmark_operator.py --device "$device" --channels-last --backend $backend \
        --repetitions 5 "${channels[@]}" --out "$out/$1.md" "${@:2}"
}

network_step() {  # network_step NAME OPTION...
    step "$1" "$python" tools/analysis_tools/benchmark.py --device "$device" --channels-last --repetitions 5 --out "$out/$1" "${@:2}"
}

kernels() {  # against the reference, in every type
    step kernels "$python" -m pytest -q -p no:cacheprovider tests/test_ops/test_triton_dwconv.py "${tests[@]}"
}

operator() {
    local dtype
    for dtype in "${dtypes[@]}"; do
        operator_step "operator-$dtype" --dtype "$dtype" --passes forward backward both --batches $batch --sizes "${sizes[@]}"
        operator_step "operator-large-$dtype" --dtype "$dtype" --passes forward backward both --batches 2 --sizes "${large[@]}"
    done
}

networks() {
    network_step networks --baseline "DMFormer-S$precision" --cases {inference,training}:${batch}x${side}x${side} \
        --models "DMFormer-S$precision" "${peers[@]/%/$precision}"
}

memory() {
    network_step memory --baseline "DMFormer-S$precision" --cases training:${batch}x${side}x${side} \
        --models "DMFormer-S$precision" "DMFormer-S checkpointed$precision"
}

run() {  # run CONFIG DATA SETTING...: a short training
    local data=$out/data/mini/$2
    step "run-$1" "$python" tools/train.py "configs/mini/$1.py" "${amp[@]}" --work-dir "$out/run-$1" --cfg-options \
        {train,val,test}_dataloader.dataset.data_root="$data" "${@:3}"
}

runs() {
    local epoch=(train_cfg.max_epochs=1 train_cfg.val_interval=1)
    step data "$python" demo/make_mini_data.py --out "$out/data/mini" --scale $scale --force
    run dmformer-nano_mini-imagenet imagenet "${epoch[@]}"
    run retinanet_dmformer-nano_fpn_mini-coco coco "${epoch[@]}" {val,test}_evaluator.ann_file="$out/data/mini/coco/annotations/instances_val2017.json"
    run dmformer-nano_sem-fpn_mini-ade20k ade/ADEChallengeData2016 train_cfg.max_iters=10 train_cfg.val_interval=10
}

compiled() {  # in pairs, as compiling takes longest
    local peer
    for peer in "${peers[@]}"; do
        network_step "compiled-$peer" --baseline "DMFormer-S$precision compiled" --cases {inference,training}:${batch}x${side}x${side} \
            --models "DMFormer-S$precision compiled" "$peer$precision compiled"
    done
}

failed=0
for part in "${@:-kernels operator networks memory runs compiled}"; do
    for name in $part; do "$name"; done
done
exit $failed
