#!/usr/bin/env bash
# All measurements of docs/performance.md that need no GPU: about 25 minutes on two idle cores, which nothing else may use.
# The results lie in benchmarks/cpu/, a folder for each question.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}
out=benchmarks/cpu
peers=(Swin-T Swin-S ConvNeXt-T ConvNeXt-S VAN-B2 PoolFormer-S36 ResNet-50)

network() {  # network FOLDER OPTION...: the networks beside each other
    "$python" tools/benchmark.py --out "$out/$1" "${@:2}"
}

"$python" tools/benchmark_operator.py --out $out/operator/inference.md
"$python" tools/benchmark_operator.py --channels-last --out $out/operator/inference-channels-last.md
"$python" tools/benchmark_operator.py --channels-last --backward --batches 1 4 --repetitions 5 \
    --out $out/operator/training-channels-last.md

s=(DMFormer-S 'DMFormer-S folded' 'DMFormer-S compiled' 'DMFormer-S reference')
l=(DMFormer-L 'DMFormer-L folded' 'DMFormer-L compiled')
network inference --baseline 'DMFormer-S folded' --cases inference:4x224x224 inference:1x224x224 \
    --models "${s[@]}" "${l[@]}" "${peers[@]}"
network large-inputs --baseline 'DMFormer-S folded' --repetitions 5 \
    --cases inference:32x224x224 inference:1x512x2048 --models 'DMFormer-S folded' DMFormer-S "${peers[@]}"
network training --repetitions 5 --cases training:4x224x224 \
    --models DMFormer-S 'DMFormer-S compiled' 'DMFormer-S bf16' 'DMFormer-S checkpointed' \
    'DMFormer-S reference' DMFormer-L "${peers[@]}"
growing=('DMFormer-S folded' Swin-T ConvNeXt-T)
network growth-pixels --growth --repetitions 5 --models "${growing[@]}" \
    --cases inference:1x{224x224,320x320,448x448,640x640,1024x1024}
network growth-batch --growth --repetitions 5 --models "${growing[@]}" \
    --cases inference:{1,2,4,8,16,32}x224x224
