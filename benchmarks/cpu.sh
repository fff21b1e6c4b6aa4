#!/usr/bin/env bash
# All measurements of docs/performance.md that need no GPU, or the parts that are named:
#   benchmarks/cpu.sh [operator] [inference] [compiled] [large] [training] [growth] [attention] [mixers]
# Nothing else may use the machine meanwhile. The results lie in benchmarks/cpu/, a folder for each question; those of
# dynamic attention, which docs/dynamic_convolution.md shows, in benchmarks/attention/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}
out=benchmarks/cpu
peers=(Swin-T Swin-S ConvNeXt-T ConvNeXt-S VAN-B2 PoolFormer-S36 ResNet-50)
folded='DMFormer-S folded'

network() {  # network FOLDER OPTION...: networks beside each other
    "$python" tools/analysis_tools/benchmark.py --out "$out/$1" "${@:2}"
}

operator() {
    "$python" benchmarks/benchmark_operator.py --channels-last --out $out/operator/inference-channels-last.md
    "$python" benchmarks/benchmark_operator.py --out $out/operator/inference.md
    "$python" benchmarks/benchmark_operator.py --channels-last --passes both --batches 1 4 --repetitions 5 \
        --out $out/operator/training-channels-last.md
    "$python" benchmarks/benchmark_operator.py --alternatives --batches 1 4 --repetitions 5 \
        --out $out/operator/alternatives.md
}

inference() {
    network inference --baseline "$folded" --cases inference:4x224x224 inference:1x224x224 --models \
        DMFormer-S "$folded" 'DMFormer-S reference' DMFormer-L 'DMFormer-L folded' "${peers[@]}"
}

compiled() {
    network compiled --baseline "$folded" --cases inference:4x224x224 inference:1x224x224 --models \
        DMFormer-S "$folded" 'DMFormer-S compiled' DMFormer-L 'DMFormer-L folded' 'DMFormer-L compiled'
}

large() {
    network large --baseline "$folded" --repetitions 5 --cases inference:32x224x224 inference:1x512x2048 \
        --models DMFormer-S "$folded" DMFormer-L 'DMFormer-L folded' "${peers[@]}"
}

training() {
    network training --repetitions 5 --cases training:4x224x224 --models \
        DMFormer-S 'DMFormer-S reference' 'DMFormer-S compiled' 'DMFormer-S bf16' \
        'DMFormer-S checkpointed' DMFormer-L "${peers[@]}"
}

growth() {
    local growing=("$folded" Swin-T ConvNeXt-T)
    network growth-pixels --growth --repetitions 5 --baseline "$folded" --models "${growing[@]}" \
        --cases inference:1x{224x224,320x320,448x448,640x640,1024x1024}
    network growth-batch --growth --repetitions 5 --baseline "$folded" --models "${growing[@]}" \
        --cases inference:{1,2,4,8,16,32}x224x224
}

attention() {
    "$python" benchmarks/attention_scaling.py --repetitions 3 --out benchmarks/attention/inference
    "$python" benchmarks/attention_scaling.py --training --sides 14 24 32 48 --repetitions 3 \
        --out benchmarks/attention/training
}

mixers() {
    network mixers --baseline configs/metaformer/metaformer-s-dma_8xb128_in1k.py --cases inference:1x224x224 \
        --models configs/metaformer/*.py configs/dmformer/dmformer-s-hybrid_8xb128_in1k.py
    "$python" benchmarks/mixer_table.py
}

for part in "${@:-operator inference compiled large training growth attention mixers}"; do
    for name in $part; do "$name"; done
done
