# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Sum of parallel depth-wise convolutions of different kernel sizes and dilations."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..compat import is_exporting
from .cpu_dwconv import conv_with_split_padding, sum_dwconvs, sum_fused
from .fused_conv import fuses
from .paths import current_path


def multi_dilated_dwconv(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    dilations: Sequence[int],
    relu: bool = False,
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
        relu (bool): Whether to apply ReLU to the sum. Defaults to False.

    Returns:
        Tensor: The sum, of shape (B, C, H, W).

    Raises:
        ValueError: If the path ``'fused'`` is forced where it cannot run.

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
    path = current_path()
    if path == 'auto':
        path = _choose_path(x, *weights, *biases)
    elif path == 'fused' and not fuses(x, *weights, *biases):
        raise ValueError(
            "the path 'fused' (MMDMFORMER_DWCONV) is for inference in float32 on a CPU, without "
            f'autograd, autocast or tracing, and not for this {x.dtype} on {x.device}: choose auto.'
        )
    bias = sum(biases[1:], start=biases[0])
    if path == 'triton':
        return _triton(x, weights, bias, dilations, relu)
    if path == 'fused':
        return sum_fused(x, weights, bias, dilations, relu)
    if path == 'cpu':
        return sum_dwconvs(x, list(weights), bias, dilations, relu)
    convolve_branch = conv_with_split_padding if path == 'split' else dwconv_reference
    out = convolve_branch(x, weights[0], bias, dilations[0])
    for weight, dilation in zip(weights[1:], dilations[1:], strict=True):
        out += convolve_branch(x, weight, None, dilation)
    return out.relu_() if relu else out


def _choose_path(x: Tensor, *parameters: Tensor) -> str:
    # The Triton kernels have not been timed on a GPU yet, and are used on demand alone.
    if x.device.type != 'cpu':
        return 'reference'
    if fuses(x, *parameters):
        return 'fused'
    exported = torch.jit.is_tracing() or is_exporting()  # to where our operators are unknown
    if exported or torch.is_autocast_enabled('cpu') or x.dtype not in (torch.float, torch.double):
        return 'split'
    return 'cpu'


def _triton(
    x: Tensor, weights: Sequence[Tensor], bias: Tensor, dilations: Sequence[int], relu: bool
) -> Tensor:
    from .triton_dwconv import dwconv_taps, tap_offsets

    sizes = tuple(tuple(weight.shape[2:]) for weight in weights)
    offsets = tap_offsets(sizes, tuple(dilations), x.device)
    taps = torch.cat([weight.flatten(1) for weight in weights], 1)
    return dwconv_taps(x, taps, bias, offsets, relu)


def dwconv_reference(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """The definition of one branch: a depth-wise convolution of torch's."""
    padding = [dilation * (size // 2) for size in weight.shape[2:]]
    return F.conv2d(x, weight, bias, 1, padding, dilation, groups=x.shape[1])
