# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Sum of parallel depth-wise convolutions of different kernel sizes and dilations."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def multi_dilated_dwconv(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], dilations: Sequence[int]
) -> Tensor:
    """Sum depth-wise convolutions over branches, with "same" zero padding and stride 1.

    This is the multi-scale aggregation of DMFormer (equation 1 of arXiv
    2209.07738 v3), before its normalisation.

    Args:
        x (Tensor): Input of shape (B, C, H, W).
        weights (Sequence[Tensor]): One kernel per branch, of shape
            (C, 1, k, k) with k odd.
        biases (Sequence[Tensor]): One bias per branch, of shape (C, ).
        dilations (Sequence[int]): One dilation per branch.

    Returns:
        Tensor: The sum, of shape (B, C, H, W).

    Examples:
        >>> import torch
        >>> x = torch.ones(1, 1, 3, 3)
        >>> weights = [torch.ones(1, 1, 1, 1), torch.ones(1, 1, 3, 3)]
        >>> biases = [torch.zeros(1), torch.full((1, ), 0.5)]
        >>> multi_dilated_dwconv(x, weights, biases, dilations=(1, 2))[0, 0]
        tensor([[5.5000, 3.5000, 5.5000],
                [3.5000, 2.5000, 3.5000],
                [5.5000, 3.5000, 5.5000]])
    """
    # One bias for the sum: it is cheaper than one for each branch.
    bias = sum(biases[1:], start=biases[0])
    first, *others = zip(weights, dilations, strict=True)
    out = _same_dwconv(x, *first, bias)
    for weight, dilation in others:
        out = out + _same_dwconv(x, weight, dilation, None)
    return out


def _same_dwconv(x: Tensor, weight: Tensor, dilation: int, bias: Tensor | None) -> Tensor:
    kernel_size = weight.shape[-1]
    padding = dilation * (kernel_size // 2)
    if x.device.type == 'cpu' and padding >= kernel_size:
        # oneDNN's fast depth-wise kernel takes paddings below the kernel size only; past that a
        # reference kernel, about ten times slower, would run. The values are the same.
        explicit = padding - (kernel_size - 1)
        x = F.pad(x, (explicit,) * 4)
        padding = kernel_size - 1
    return F.conv2d(x, weight, bias, 1, padding, dilation, groups=x.shape[1])
