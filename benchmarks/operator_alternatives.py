# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Other ways to compute the depthwise operator in inference on a CPU, which were tried."""

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdmformer.analysis.benchmark import interleave
from mmdmformer.ops import multi_dilated_dwconv
from mmdmformer.ops.cpu_dwconv import conv_with_split_padding, split_phases, sum_fused
from mmdmformer.ops.fused_conv import convolve
from operator_benchmark import CHANNELS, DILATIONS, make_inputs


def in_separate_passes(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Each branch by itself, padded in part before; then the sums."""
    out = conv_with_split_padding(x, weights[0], sum(biases), DILATIONS[0])
    for weight, dilation in zip(weights[1:], DILATIONS[1:], strict=True):
        out += conv_with_split_padding(x, weight, None, dilation)
    return out


def with_one_kernel(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """One dense kernel that holds the taps of all branches, and zeros between them."""
    radius = max(d * (w.shape[-1] // 2) for w, d in zip(weights, DILATIONS, strict=True))
    kernel = x.new_zeros(x.shape[1], 1, 2 * radius + 1, 2 * radius + 1)
    for weight, dilation in zip(weights, DILATIONS, strict=True):
        reach = dilation * (weight.shape[-1] // 2)
        taps = slice(radius - reach, radius + reach + 1, dilation)
        kernel[:, :, taps, taps] += weight
    return sum_fused(x, [kernel], sum(biases), [1], relu=False)


def on_phases(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Dilated branches as convolutions without dilation, on the phases of the grid."""
    bias, out = sum(biases), None
    for weight, dilation in zip(weights, DILATIONS, strict=True):
        padding = [size // 2 for size in weight.shape[2:]]
        geometry = (padding, [1, 1], [1, 1], x.shape[1])
        phases = split_phases(x, dilation, (0, 0))
        phases = convolve(phases, weight, bias if out is None else None, *geometry)
        branch = _join_phases(phases, dilation, x.shape)
        out = branch if out is None else out.add_(branch)
    return out


def _join_phases(phases: Tensor, dilation: int, shape: Sequence[int]) -> Tensor:
    rows, columns = phases.shape[2:]
    x = phases.permute(0, 2, 3, 1).unflatten(0, (shape[0], dilation, dilation))
    x = x.permute(0, 3, 1, 4, 2, 5).reshape(shape[0], rows * dilation, columns * dilation, shape[1])
    return x[:, : shape[2], : shape[3]].permute(0, 3, 1, 2)


def ours(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """The way that :func:`~mmdmformer.ops.multi_dilated_dwconv` takes."""
    return multi_dilated_dwconv(x, weights, biases, DILATIONS)


def in_three_convolutions(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Torch's convolutions as they are."""
    return sum(
        F.conv2d(x, w, b, 1, d * (w.shape[-1] // 2), d, groups=x.shape[1])
        for w, b, d in zip(weights, biases, DILATIONS, strict=True)
    )


WAYS: dict[str, Callable[..., Tensor]] = {
    'taken': ours,
    'three torch convolutions': in_three_convolutions,
    'branches in passes of their own': in_separate_passes,
    'one kernel of 19x19 taps': with_one_kernel,
    'dilated branches on phases': on_phases,
}


@torch.no_grad()
def measure(batch: int, repetitions: int) -> dict[str, list[float]]:
    """Time all ways in turn, channels last, in float32.

    Args:
        batch (int): Images.
        repetitions (int): How often.

    Returns:
        dict[str, list[float]]: Seconds for the four stages of DMFormer-S
        together, of each repetition.
    """
    seconds = {name: [0.0] * repetitions for name in WAYS}
    for stage, channels in enumerate(CHANNELS):
        shape = (batch, channels, 56 >> stage, 56 >> stage)
        inputs = make_inputs(shape, 'cpu', torch.float32, torch.channels_last, False)
        runs = [partial(way, *inputs) for way in WAYS.values()]
        for name, times in zip(WAYS, interleave(runs, repetitions, 'cpu'), strict=True):
            seconds[name] = [a + b for a, b in zip(seconds[name], times, strict=True)]
    return seconds


def make_table(seconds: dict[str, list[float]]) -> str:
    """Make a Markdown table of :func:`measure`'s result.

    Args:
        seconds (dict[str, list[float]]): The result.

    Returns:
        str: The table.
    """
    base = median(seconds['taken'])
    lines = ['| way | ms | time / taken |', '| --- | ---: | ---: |']
    for name, times in seconds.items():
        low, middle, high = (1e3 * f(times) for f in (min, median, max))
        lines.append(
            f'| {name} | {middle:.1f} ({low:.1f} to {high:.1f}) | {middle / base / 1e3:.2f} |'
        )
    return '\n'.join(lines)
