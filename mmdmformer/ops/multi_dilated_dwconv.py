# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Sum of parallel depthwise convolutions of different kernel sizes and dilations."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .backend import choose_backend, forced_backend
from .cpu_dwconv import conv_with_split_padding, sum_dwconvs, sum_fused
from .memory_format import memory_format_of
from .watching import may_bypass


def sum_branches(x: Tensor, branches: Sequence[nn.Conv2d], act: nn.Module | None = None) -> Tensor:
    """Compute ``act(sum of branch(x))`` of parallel depthwise convolutions.

    :func:`multi_dilated_dwconv` does so from their weights, as long as nobody watches them and
    they are what it computes; else the layers are called one after the other.

    Args:
        x (Tensor): Input of shape (B, C, H, W).
        branches (Sequence[nn.Conv2d]): The convolutions.
        act (nn.Module, optional): Activation. Defaults to None.

    Returns:
        Tensor: Of shape (B, C, H, W).

    Examples:
        >>> branches = [nn.Conv2d(4, 4, k, padding=k // 2, groups=4) for k in (3, 5)]
        >>> x = torch.rand(1, 4, 6, 6)
        >>> expected = branches[0](x) + branches[1](x)
        >>> torch.allclose(sum_branches(x, branches), expected, atol=1e-6)
        True
    """
    fusible = (act,) if type(act) is nn.ReLU else ()
    bypass = may_bypass(*branches, *fusible) and all(_is_same_depthwise(b) for b in branches)
    if not bypass or forced_backend() == 'reference':
        y = sum((branch(x) for branch in branches[1:]), start=branches[0](x))
        return y if act is None else act(y)
    weights = [branch.weight for branch in branches]
    biases = [branch.bias for branch in branches]
    dilations = [branch.dilation[0] for branch in branches]
    y = multi_dilated_dwconv(x, weights, biases, dilations, bool(fusible))
    return y if act is None or fusible else act(y)


def _is_same_depthwise(conv: nn.Conv2d) -> bool:
    """Whether it keeps the size of maps, and the channels apart."""
    (rows, columns), dilation = conv.kernel_size, conv.dilation[0]
    return (
        conv.groups == conv.in_channels == conv.out_channels == conv.weight.shape[0]
        and conv.stride == (1, 1)
        and conv.dilation == (dilation, dilation)
        and conv.padding == (dilation * (rows // 2), dilation * (columns // 2))
        and conv.padding_mode == 'zeros'
        and rows % 2 == columns % 2 == 1
    )


def multi_dilated_dwconv(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    dilations: Sequence[int],
    relu: bool = False,
) -> Tensor:
    """Sum depthwise convolutions over branches, with "same" zero padding and stride 1.

    This is the multi-scale aggregation of DMFormer (equation 1 of arXiv
    2209.07738 v3), before its normalization.

    Args:
        x (Tensor): Input of shape (B, C, H, W).
        weights (Sequence[Tensor]): One kernel per branch, of shape
            (C, 1, k, k) with k odd.
        biases (Sequence[Tensor, optional]): One bias per branch, of shape
            (C, ), or None.
        dilations (Sequence[int]): One dilation per branch.
        relu (bool): Whether to apply ReLU to the sum. Defaults to False.

    Returns:
        Tensor: The sum, of shape (B, C, H, W), in the memory format of the input.

    Raises:
        ValueError: If the backend ``'fused'`` is forced where it cannot run.

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
    backend = choose_backend(x, *weights, *biases)
    given = [bias for bias in biases if bias is not None]
    bias = sum(given[1:], start=given[0]) if given else None
    if backend == 'triton':
        return _triton(x, weights, bias, dilations, relu)
    if backend in ('fused', 'cpu'):
        compute = sum_fused if backend == 'fused' else sum_dwconvs
        out = compute(x, list(weights), bias, dilations, relu)
        return out.contiguous(memory_format=memory_format_of(x))
    split = backend == 'torch' and x.device.type == 'cpu'
    convolve_branch = conv_with_split_padding if split else dwconv_reference
    out = convolve_branch(x, weights[0], bias, dilations[0])
    for weight, dilation in zip(weights[1:], dilations[1:], strict=True):
        out = out + convolve_branch(x, weight, None, dilation)
    return out.relu() if relu else out


def _triton(
    x: Tensor, weights: Sequence[Tensor], bias: Tensor | None, dilations: Sequence[int], relu: bool
) -> Tensor:
    from .triton_dwconv import dwconv_taps, tap_offsets

    sizes = tuple(tuple(weight.shape[2:]) for weight in weights)
    offsets = tap_offsets(sizes, tuple(dilations), x.device)
    taps = torch.cat([weight.flatten(1) for weight in weights], 1)
    return dwconv_taps(x, taps, bias, offsets, relu)


def dwconv_reference(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """The definition of one branch: a depthwise convolution of torch's."""
    padding = [dilation * (size // 2) for size in weight.shape[2:]]
    return F.conv2d(x, weight, bias, 1, padding, dilation, groups=x.shape[1])
