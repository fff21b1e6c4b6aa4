# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The depth-wise operator beside three torch convolutions, and how far the machine's limits are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdmformer.analysis.benchmark import interleave
from mmdmformer.ops import dwconv_backend, multi_dilated_dwconv

# Expanded channels and side of the maps of DMFormer-S at 224x224 pixels, stage by stage.
STAGES = ((256, 56), (512, 28), (1280, 14), (2048, 7))
KERNEL_SIZES, DILATIONS = (3, 5, 7), (1, 2, 3)


@dataclass(frozen=True)
class Row:
    """What the operator takes at one shape.

    Attributes:
        name (str): The shape, B x C x H x W.
        torch_seconds (list[float]): Three torch convolutions and their sum,
            every repetition.
        our_seconds (list[float]): The operator.
        multiply_adds (int): Of a forward pass, without products with the
            padding.
        bytes_moved (int): Size of input and output.
    """

    name: str
    torch_seconds: list[float]
    our_seconds: list[float]
    multiply_adds: int
    bytes_moved: int

    @property
    def ratio(self) -> float:
        """How many times faster the operator is, at the medians."""
        return median(self.torch_seconds) / median(self.our_seconds)


def measure_operator(
    batch: int,
    backward: bool = False,
    device: str = 'cpu',
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
    backend: str = 'auto',
    repetitions: int = 7,
    stages: Sequence[tuple[int, int]] = STAGES,
) -> list[Row]:
    """Time the operator and three torch convolutions in turn, at the four stages.

    Args:
        batch (int): Images.
        backward (bool): Whether to time forward and backward passes together.
            Defaults to False.
        device (str): Such as ``'cpu'`` or ``'cuda'``. Defaults to 'cpu'.
        dtype (torch.dtype): Type of input and parameters.
            Defaults to float32.
        memory_format (torch.memory_format): Of the input.
        backend (str): Of :func:`~mmdmformer.ops.dwconv_backend`.
            Defaults to 'auto'.
        repetitions (int): How often each is measured. Defaults to 7.
        stages (Sequence[tuple[int, int]]): Channels and side of the maps.
            Defaults to those of DMFormer-S.

    Returns:
        list[Row]: One for each stage.
    """
    rows = []
    for channels, side in stages:
        inputs = make_inputs(batch, channels, side, device, dtype, memory_format, backward)
        runs = [_make_run(inputs, name, backward) for name in ('reference', backend)]
        theirs, ours = interleave(runs, repetitions, device)
        shape = (batch, channels, side, side)
        bytes_moved = 2 * inputs[0].nbytes
        name = ' x '.join(map(str, shape))
        rows.append(Row(name, theirs, ours, count_multiply_adds(shape), bytes_moved))
    return rows


def make_inputs(
    batch: int,
    channels: int,
    side: int,
    device: str,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
    requires_grad: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Make maps, kernels and biases of random numbers.

    Args:
        batch (int): Images.
        channels (int): Channels of the maps.
        side (int): Their height and width.
        device (str): Such as ``'cpu'``.
        dtype (torch.dtype): Type of the numbers.
        memory_format (torch.memory_format): Of the maps.
        requires_grad (bool): Whether gradients are wanted.

    Returns:
        tuple: Input, and a kernel and a bias for each branch.
    """
    x = torch.randn(batch, channels, side, side, device=device, dtype=dtype)
    x = x.contiguous(memory_format=memory_format).requires_grad_(requires_grad)
    weights = [
        torch.randn(channels, 1, k, k, device=device, dtype=dtype, requires_grad=requires_grad)
        for k in KERNEL_SIZES
    ]
    biases = [
        torch.randn(channels, device=device, dtype=dtype, requires_grad=requires_grad)
        for _ in KERNEL_SIZES
    ]
    return x, weights, biases


def _make_run(inputs, backend: str, backward: bool) -> Callable[[], object]:
    x, weights, biases = inputs
    grad = torch.randn_like(x)

    def forward() -> Tensor:
        with dwconv_backend(backend):
            return multi_dilated_dwconv(x, weights, biases, DILATIONS)

    def forward_and_backward() -> None:
        torch.autograd.grad(forward(), [x, *weights, *biases], grad)

    def infer() -> None:
        with torch.no_grad():
            forward()

    return forward_and_backward if backward else infer


def count_multiply_adds(shape: tuple[int, int, int, int]) -> int:
    """Count the products of a forward pass that involve no padding.

    Args:
        shape (tuple[int]): B, C, H, W.

    Returns:
        int: The number.

    Examples:
        >>> count_multiply_adds((1, 1, 1, 1))  # the centre of each kernel
        3
    """
    batch, channels, height, width = shape
    per_channel = sum(
        _pairs_inside(height, k, d) * _pairs_inside(width, k, d)
        for k, d in zip(KERNEL_SIZES, DILATIONS, strict=True)
    )
    return batch * channels * per_channel


def _pairs_inside(side: int, kernel_size: int, dilation: int) -> int:
    """Pairs of an output position and a tap of which the tap is inside the map, on one axis."""
    radius = kernel_size // 2
    return sum(max(side - dilation * abs(tap), 0) for tap in range(-radius, radius + 1))


def measure_limits(device: str = 'cpu', dtype: torch.dtype = torch.float32) -> tuple[float, float]:
    """Measure what the machine reaches in a dense convolution and in a copy.

    Args:
        device (str): Such as ``'cpu'`` or ``'cuda'``. Defaults to 'cpu'.
        dtype (torch.dtype): Type of the numbers. Defaults to float32.

    Returns:
        tuple[float, float]: Multiply-adds a second, and bytes read and
        written a second.
    """
    x = torch.randn(4, 256, 28, 28, device=device, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(256, 256, 3, 3, device=device, dtype=dtype)
    large = torch.randn(64 * 2**20, device=device, dtype=dtype)
    target = torch.empty_like(large)
    with torch.no_grad():
        dense, copy = interleave(
            [lambda: F.conv2d(x, weight, padding=1), lambda: target.copy_(large)], 9, device
        )
    multiply_adds = x.numel() * 256 * 9
    return multiply_adds / min(dense), 2 * large.nbytes / min(copy)


def make_table(rows: list[Row], limits: tuple[float, float], backward: bool) -> str:
    """Make a Markdown table, with the sum over the stages in the last row.

    Args:
        rows (list[Row]): The measurements of one batch.
        limits (tuple[float, float]): As :func:`measure_limits` gives them.
        backward (bool): Whether backward passes are in them.

    Returns:
        str: The table.
    """
    header = ['B x C x H x W', 'three convolutions, ms', 'ours, ms', 'times faster']
    if not backward:
        header += ['GMAC/s', 'of the dense rate', 'GB/s', 'of the copy rate']
    lines = [header, ['---', *['---:'] * (len(header) - 1)]]
    for row in [*rows, _sum(rows)]:
        cells = [row.name, _spread(row.torch_seconds), _spread(row.our_seconds)]
        cells.append(f'{row.ratio:.1f}')
        if not backward:
            for amount, limit in zip((row.multiply_adds, row.bytes_moved), limits, strict=True):
                rate = amount / median(row.our_seconds)
                cells += [f'{rate / 1e9:.1f}', f'{rate / limit:.0%}']
        lines.append(cells)
    return '\n'.join('| ' + ' | '.join(cells) + ' |' for cells in lines)


def _sum(rows: list[Row]) -> Row:
    return Row(
        'sum',
        [sum(times) for times in zip(*(row.torch_seconds for row in rows), strict=True)],
        [sum(times) for times in zip(*(row.our_seconds for row in rows), strict=True)],
        sum(row.multiply_adds for row in rows),
        sum(row.bytes_moved for row in rows),
    )


def _spread(seconds: list[float]) -> str:
    low, middle, high = (f(seconds) * 1e3 for f in (min, median, max))
    return f'{middle:.2f} ({low:.2f} to {high:.2f})'
