#!/usr/bin/env bash
# torch 2.11.0: FlopCounterMode counts the weights' gradient of a depthwise convolution as many times
# as it has channels.
#
# Expected: the gradient with respect to the weights of a convolution takes as many multiply-adds as
# its output, so a forward and backward pass with both gradients counts three times the forward pass.
# What happens: for a convolution of 64 groups it counts 66 times the forward pass. Without groups the
# count is right. Training costs of networks with depthwise layers come out far too high.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.11.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch.utils.flop_counter import FlopCounterMode


def count(groups, backward):
    conv = torch.nn.Conv2d(64, 64, 3, padding=1, groups=groups, bias=False)
    image = torch.rand(1, 64, 16, 16, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        out = conv(image)
        if backward:
            out.sum().backward()
    return counter.get_total_flops()


print('torch', torch.__version__)
for groups in (1, 64):
    forward, both = count(groups, False), count(groups, True)
    by_hand = 2 * 64 * (64 // groups) * 9 * 16 * 16
    print(f'groups {groups}: forward {forward} (by hand {by_hand}), with backward {both / forward:g} times that')
    assert forward == by_hand
    assert both / forward == {1: 3, 64: 66}[groups]
PYTHON
echo 'As described: the gradient of depthwise weights is counted once for each channel too often.'
