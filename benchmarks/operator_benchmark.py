# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The depthwise operator beside three torch convolutions, and how far the machine's limits are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdmformer.analysis.benchmark import interleave
from mmdmformer.ops import dwconv_backend, multi_dilated_dwconv

CHANNELS = (256, 512, 1280, 2048)  # of DMFormer-S, expanded, stage by stage
# What is timed: how many times a forward pass's products, and how many maps are read or written
PASSES = dict(forward=(1, 2), backward=(2, 3), both=(3, 5))
KERNEL_SIZES, DILATIONS = (3, 5, 7), (1, 2, 3)


@dataclass(frozen=True)
class Row:
    """What the operator takes at one shape.

    Attributes:
        name (str): The shape, B x C x H x W.
        torch_seconds (list[float]): Three torch convolutions and their sum,
            every repetition.
        our_seconds (list[float]): The operator.
        multiply_adds (int): Of what was timed, without products with the
            padding.
        bytes_moved (int): Size of the maps that are read or written.
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
    passes: str = 'forward',
    device: str = 'cpu',
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
    backend: str = 'auto',
    repetitions: int = 7,
    size: tuple[int, int] = (224, 224),
    channels: Sequence[int] = CHANNELS,
) -> list[Row]:
    """Time the operator and three torch convolutions in turn, at the stages of a network.

    Args:
        batch (int): Images.
        passes (str): ``'forward'``, ``'backward'``, or ``'both'`` together.
            Defaults to 'forward'.
        device (str): Such as ``'cpu'`` or ``'cuda'``. Defaults to 'cpu'.
        dtype (torch.dtype): Type of input and parameters.
            Defaults to float32.
        memory_format (torch.memory_format): Of the input.
        backend (str): Of :func:`~mmdmformer.ops.dwconv_backend`.
            Defaults to 'auto'.
        repetitions (int): How often each is measured. Defaults to 7.
        size (tuple[int, int]): Height and width of the images; the maps have a
            4th, an 8th, and so on. Defaults to (224, 224).
        channels (Sequence[int]): Channels of each stage's maps. Defaults to
            those of DMFormer-S.

    Returns:
        list[Row]: One for each stage.
    """
    rows = []
    products, maps = PASSES[passes]
    for stage, width in enumerate(channels):
        shape = (batch, width, *(-(-side // (4 * 2**stage)) for side in size))
        inputs = make_inputs(shape, device, dtype, memory_format, passes != 'forward')
        runs = [_make_run(inputs, name, passes) for name in ('reference', backend)]
        theirs, ours = interleave(runs, repetitions, device)
        name = ' x '.join(map(str, shape))
        multiply_adds = products * count_multiply_adds(shape)
        rows.append(Row(name, theirs, ours, multiply_adds, maps * inputs[0].nbytes))
    return rows


def make_inputs(
    shape: tuple[int, int, int, int],
    device: str,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
    requires_grad: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Make maps, kernels and biases of random numbers.

    Args:
        shape (tuple[int]): B, C, H, W of the maps.
        device (str): Such as ``'cpu'``.
        dtype (torch.dtype): Type of the numbers.
        memory_format (torch.memory_format): Of the maps.
        requires_grad (bool): Whether gradients are wanted.

    Returns:
        tuple: Input, and a kernel and a bias for each branch.
    """
    channels = shape[1]
    x = torch.randn(shape, device=device, dtype=dtype)
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


def _make_run(inputs, backend: str, passes: str) -> Callable[[], object]:
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

    if passes != 'backward':
        return infer if passes == 'forward' else forward_and_backward
    out = forward()
    return lambda: torch.autograd.grad(out, [x, *weights, *biases], grad, retain_graph=True)


def count_multiply_adds(shape: tuple[int, int, int, int]) -> int:
    """Count the products of a forward pass that involve no padding.

    Args:
        shape (tuple[int]): B, C, H, W.

    Returns:
        int: The number.

    Examples:
        >>> count_multiply_adds((1, 1, 1, 1))  # the center of each kernel
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


def make_table(rows: list[Row], limits: tuple[float, float]) -> str:
    """Make a Markdown table, with the sum over the stages in the last row.

    Args:
        rows (list[Row]): The measurements of one batch.
        limits (tuple[float, float]): As :func:`measure_limits` gives them.

    Returns:
        str: The table.
    """
    header = ['B x C x H x W', 'three convolutions, ms', 'ours, ms', 'times faster']
    header += ['GMAC/s', 'of the dense rate', 'GB/s', 'of the copy rate']
    lines = [header, ['---', *['---:'] * (len(header) - 1)]]
    for row in [*rows, _sum(rows)]:
        cells = [row.name, _spread(row.torch_seconds), _spread(row.our_seconds)]
        cells.append(f'{row.ratio:.1f}')
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
