#!/usr/bin/env bash
# ExecuTorch 1.2.0, XNNPACK: a depthwise 7x7 convolution takes many times as long as a 5x5 one, and as its own three parts.
#
# Expected: time grows with the taps: 49 of 7x7 cost about twice the 25 of 5x5, as in PyTorch on the same CPU. XNNPACK
# takes both, so that neither is left to slower code.
# What happens: its depthwise kernels end at 25 taps. A larger one runs as a grouped convolution with one channel in each
# group, which took 15 to 25 times the CPU time of 5x5 on an AMD EPYC, at 64 channels and 56x56 pixels. Nothing is said.
# The same sums as three convolutions of 7x3 taps, with dilations of 1, 2 and 3 columns, took about 3 times that of 5x5.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.11.0 executorch==1.2.0
export PATH="$folder/venv/bin:$PATH" PYTHONWARNINGS=ignore
cd "$folder"
python - 2> "$folder/log" <<'PYTHON' || { cat "$folder/log"; exit 1; }
import os

os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # threads that wait for others take CPU time, too
import pathlib
import statistics
import time

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.runtime import Runtime
from torch import nn

torch.manual_seed(0)
images = torch.rand(1, 64, 56, 56)


class Parts(nn.Module):
    """The 7x7 convolution as three with columns at -j, 0 and j."""

    def __init__(self, conv):
        super().__init__()
        self.parts = nn.ModuleList()
        for j in (1, 2, 3):
            part = nn.Conv2d(64, 64, (7, 3), padding=(3, j), dilation=(1, j), groups=64, bias=False)
            part.weight.data = conv.weight.data[..., [3 - j, 3, 3 + j]].clone()
            if j > 1:
                part.weight.data[..., 1] = 0
            self.parts.append(part)

    def forward(self, x):
        return self.parts[0](x) + self.parts[1](x) + self.parts[2](x)


def compiled(name, module):
    program = torch.export.export(module.eval(), (images,))
    edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    left = [n for n in edge.exported_program().graph.nodes if 'EdgeOpOverload' in str(n.target)]
    assert not left, 'XNNPACK left operators to other code'
    file = pathlib.Path(f'{name}.pte')
    file.write_bytes(edge.to_executorch().buffer)
    return Runtime.get().load_program(file).load_method('forward')


wide = nn.Conv2d(64, 64, 7, padding=3, groups=64, bias=False)
modules = {
    '3x3': nn.Conv2d(64, 64, 3, padding=1, groups=64, bias=False),
    '5x5': nn.Conv2d(64, 64, 5, padding=2, groups=64, bias=False),
    '7x7': wide,
    '7x7 in parts': Parts(wide),
}
methods = {name: compiled(name, module) for name, module in modules.items()}
same = methods['7x7'].execute([images])[0], methods['7x7 in parts'].execute([images])[0]
torch.testing.assert_close(*same, atol=1e-5, rtol=1e-5)
seconds = {name: [] for name in methods}
for _ in range(40):
    for name, method in methods.items():
        start = time.process_time()
        method.execute([images])
        seconds[name].append(time.process_time() - start)
times = {name: statistics.median(each) for name, each in seconds.items()}
for name, each in times.items():
    print(f'{name:<14} {1e3 * each:6.2f} ms of CPU time, {each / times["5x5"]:5.1f} times that of 5x5')
assert times['3x3'] < 2 * times['5x5']
assert times['7x7'] > 8 * times['5x5'], '7x7 is no longer slow'
assert times['7x7 in parts'] < times['7x7'] / 2
PYTHON
echo 'As described: of 49 taps XNNPACK makes something else than a depthwise convolution.'
