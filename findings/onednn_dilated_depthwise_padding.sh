#!/usr/bin/env bash
# torch 2.11.0 (oneDNN) on x86-64: a dilated depthwise convolution leaves its fast kernel when it pads
# by more columns than that kernel writes at once.
#
# Expected: padding=9 of a 7x7 convolution with dilation 3 costs what the same convolution costs whose
# input was padded by five columns on each side before, so that four are left.
# What happens: with padding=9 a general matrix product takes its place for each channel, here five
# times slower, although both results are the same. Four columns are the limit with AVX2,
# six with AVX-512. "same" padding of dilated depthwise layers is the usual case, so networks with
# large dilated kernels look slow on CPUs for no reason of their own.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.11.0 numpy==2.4.6
cat > "$folder/measure.py" <<'PYTHON'
import sys
import time

import torch
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(0)
image, kernels = torch.rand(1, 64, 56, 56), torch.rand(64, 1, 7, 7)
before = int(sys.argv[1])


def convolve():
    padded = F.pad(image, (before, before)) if before else image
    return F.conv2d(padded, kernels, padding=(9, 9 - before), dilation=3, groups=64)


with torch.inference_mode():
    times = []
    for _ in range(11):
        start = time.process_time()
        out = convolve()
        times.append(time.process_time() - start)
print(f'RESULT {out.double().sum():.0f} {1000 * sorted(times)[5]:.2f}')
PYTHON
for before in 0 5; do
  ONEDNN_VERBOSE=1 "$folder/venv/bin/python" "$folder/measure.py" "$before" > "$folder/out$before"
done
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys
from pathlib import Path

import torch

print('torch', torch.__version__, torch.backends.cpu.get_cpu_capability())
seen = []
for before in (0, 5):
    lines = Path(sys.argv[1], f'out{before}').read_text().splitlines()
    kernel = next(line.split(',convolution,')[1].split(',')[0] for line in lines if ',exec,cpu,convolution,' in line)
    total, milliseconds = next(line for line in lines if line.startswith('RESULT')).split()[1:]
    print(f'{9 - before} columns padded by the convolution: {kernel}, {milliseconds} ms, sum {total}')
    seen.append((kernel, float(milliseconds), total))
(slow, long, first), (fast, short, second) = seen
assert first == second
assert 'gemm' in slow or 'ref' in slow
assert fast.startswith('jit_dw')
assert long > 2 * short
PYTHON
echo 'As described: the padding decides which kernel runs.'
