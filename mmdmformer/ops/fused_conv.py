# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Convolutions that add and activate while they write, and small working sets, in CPU inference.

oneDNN, the library behind torch's convolutions on CPUs, can add a tensor to a convolution's output
and apply an activation before the output leaves the cache. torch offers that to code that
torch.compile generates; it needs no compiler when called directly.
"""

from collections.abc import Callable

import torch
import torch.nn as nn
from torch import Tensor

from .backend import fuses
from .watching import may_bypass

_ALGORITHMS = {'none': '', 'relu': '', 'gelu': 'none'}  # GELU is the exact one, not tanh's
_SLICE_BYTES = 8 * 2**20  # from 2 to 16 MiB it made no difference; without slices it is slower


def conv2d(
    x: Tensor, conv: nn.Conv2d, act: nn.Module | None = None, add: Tensor | None = None
) -> Tensor:
    """Compute ``act(conv(x) + add)``, in one pass where possible.

    Args:
        x (Tensor): Input of shape (B, C, H, W).
        conv (nn.Conv2d): A convolution with zero padding given as numbers. It
            is called where somebody watches it or the activation, see
            :func:`may_bypass`.
        act (nn.Module, optional): Activation. ReLU, and GELU if nothing is
            added, are part of the pass. Defaults to None.
        add (Tensor, optional): Summand of the output's shape, which may be
            overwritten. Defaults to None.

    Returns:
        Tensor: Output of shape (B, C', H', W').

    Examples:
        >>> conv, x = nn.Conv2d(3, 4, 1), torch.rand(1, 3, 5, 5)
        >>> out = conv2d(x, conv, nn.ReLU(), torch.ones(1, 4, 5, 5))
        >>> torch.allclose(out, (conv(x) + 1).relu())
        True
    """
    name = _fused_name(act, add)
    bypassed = (conv,) if name == 'none' else (conv, act)
    if not fuses(x, conv.weight, conv.bias, add) or not may_bypass(*bypassed):
        y = conv(x) if add is None else conv(x) + add
        return y if act is None else act(y)
    if _is_matrix_product(x, conv, name, add):
        y = _multiply(x, conv, name, add)
    else:
        geometry = list(map(int, conv.padding)), [*conv.stride], [*conv.dilation], conv.groups
        y = convolve(x, conv.weight, conv.bias, *geometry, name, add)
    return y if act is None or name != 'none' else act(y)


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: list[int],
    stride: list[int],
    dilation: list[int],
    groups: int,
    act: str = 'none',
    add: Tensor | None = None,
) -> Tensor:
    """Call oneDNN's convolution; only where :func:`fuses` says so.

    Args:
        x (Tensor): Input of shape (B, C, H, W).
        weight (Tensor): Kernels.
        bias (Tensor, optional): Bias.
        padding (list[int]): Zero padding.
        stride (list[int]): Stride.
        dilation (list[int]): Dilation.
        groups (int): Groups.
        act (str): ``'none'``, ``'relu'``, or, if nothing is added,
            ``'gelu'``. Defaults to 'none'.
        add (Tensor, optional): Summand, which is overwritten.
            Defaults to None.

    Returns:
        Tensor: The output; ``add`` if it is given.
    """
    geometry = (padding, stride, dilation, groups)
    if add is None:
        return torch.ops.mkldnn._convolution_pointwise(
            x, weight, bias, *geometry, act, [], _ALGORITHMS[act]
        )
    unary = None if act == 'none' else act
    return torch.ops.mkldnn._convolution_pointwise_.binary(
        add, x, weight, bias, *geometry, 'add', 1.0, unary, [], None
    )


def map_slices(function: Callable[[Tensor], Tensor], x: Tensor, bytes_per_image: int) -> Tensor:
    """Apply a function to slices of a batch whose intermediate results stay in the cache.

    Args:
        function (Callable): Maps images to as many results, each image for
            itself.
        x (Tensor): A batch of shape (B, ...).
        bytes_per_image (int): Size of the largest intermediate result of one
            image.

    Returns:
        Tensor: ``function(x)``.

    Examples:
        >>> map_slices(lambda x: x + len(x), torch.zeros(3), bytes_per_image=4 * 2**20)
        tensor([2., 2., 1.])
    """
    size = max(1, _SLICE_BYTES // bytes_per_image)
    if len(x) <= size:
        return function(x)
    first = function(x[:size])
    is_last = first.dim() == 4 and first.is_contiguous(memory_format=torch.channels_last)
    out = torch.empty(
        (len(x), *first.shape[1:]),
        dtype=first.dtype,
        memory_format=torch.channels_last if is_last else torch.contiguous_format,
    )
    out[:size] = first
    for start in range(size, len(x), size):  # each result's memory serves the next one again
        out[start : start + size] = function(x[start : start + size])
    return out


def _fused_name(act: nn.Module | None, add: Tensor | None) -> str:
    if type(act) is nn.ReLU:
        return 'relu'
    if type(act) is nn.GELU and act.approximate == 'none' and add is None:
        return 'gelu'
    return 'none'


def _is_matrix_product(x: Tensor, conv: nn.Conv2d, act: str, add: Tensor | None) -> bool:
    return (
        conv.kernel_size == (1, 1)
        and conv.stride == (1, 1)
        and conv.padding == (0, 0)
        and conv.groups == 1
        and (add is None or act == 'none')
        and all(t is None or t.is_contiguous(memory_format=torch.channels_last) for t in (x, add))
    )


def _multiply(x: Tensor, conv: nn.Conv2d, act: str, add: Tensor | None) -> Tensor:
    """A 1x1 convolution as a matrix product, which needs no reordered copy of the weights."""
    rows, parameters = _as_rows(x), (conv.weight.flatten(1), conv.bias)
    if add is None:
        out = torch.ops.mkldnn._linear_pointwise(rows, *parameters, act, [], _ALGORITHMS[act])
    else:
        out = torch.ops.mkldnn._linear_pointwise.binary(rows, _as_rows(add), *parameters, 'add')
    return out.unflatten(0, (x.shape[0], *x.shape[2:])).permute(0, 3, 1, 2)


def _as_rows(x: Tensor) -> Tensor:
    """View channels-last maps of shape (B, C, H, W) as (B * H * W, C)."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)
