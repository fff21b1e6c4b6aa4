# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The sum of depthwise convolutions on CPUs, without a compiler.

It is a torch.library operator, which torch.compile and autograd take as one step. Its gradient with
respect to the input is the same operator with reversed kernels.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ..compat import has_fused_convolutions
from .fused_conv import convolve, map_slices

# oneDNN's with AVX2; with AVX-512 six, but on some maps of up to seven columns four.
_COLUMNS_PER_BLOCK = 4


@torch.library.custom_op('mmdmformer::sum_dwconvs', mutates_args=(), device_types='cpu')
def sum_dwconvs(
    x: Tensor,
    weights: Sequence[Tensor],
    bias: Tensor | None,
    dilations: Sequence[int],
    relu: bool,
) -> Tensor:
    """Sum depthwise convolutions over branches, with "same" zero padding and stride 1.

    Args:
        x (Tensor): Input of shape (B, C, H, W).
        weights (Sequence[Tensor]): One kernel per branch, of shape
            (C, 1, k, k) with k odd.
        bias (Tensor, optional): Bias of the sum, of shape (C, ).
        dilations (Sequence[int]): One dilation per branch.
        relu (bool): Whether to apply ReLU to the sum.

    Returns:
        Tensor: The sum, of shape (B, C, H, W), with the channels last.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    if x.dtype == torch.float32 and len(x) > 0 and has_fused_convolutions():
        return sum_fused(x, weights, bias, dilations, relu)
    weights = _crop_all(weights, dilations, x)
    out = conv_with_split_padding(x, weights[0], bias, dilations[0])
    for weight, dilation in zip(weights[1:], dilations[1:], strict=True):
        out += conv_with_split_padding(x, weight, None, dilation)
    return out.relu_() if relu else out


@sum_dwconvs.register_fake
def _(x, weights, bias, dilations, relu):
    return torch.empty_like(x, memory_format=torch.channels_last)


@torch.library.custom_op('mmdmformer::dwconv_weight_gradient', mutates_args=(), device_types='cpu')
def dwconv_weight_gradient(x: Tensor, grad: Tensor, size: Sequence[int], dilation: int) -> Tensor:
    """The gradient of one branch of :func:`sum_dwconvs` with respect to its kernel.

    torch goes through the taps one by one here, unless a kernel has at most three columns and no
    dilation. So the correlation is done in blocks of three columns on the phases of the dilated
    grid.

    Args:
        x (Tensor): Input of shape (B, C, H, W).
        grad (Tensor): Gradient of the output, of the same shape.
        size (Sequence[int]): Height and width of the kernel.
        dilation (int): Its dilation.

    Returns:
        Tensor: Of shape (C, 1, *size).
    """
    out = x.new_zeros(x.shape[1], 1, *size)
    reached = _crop_to_reach(out, dilation, x.shape[2:])
    padded = split_phases(x, dilation, [side // 2 for side in reached.shape[2:]])
    grad = split_phases(grad, dilation, (0, 0))
    for columns in _blocks_of_three(reached.shape[3]):
        block = reached[..., columns]
        seen = padded[..., columns.start : columns.stop + grad.shape[3] - 1]
        block.copy_(_correlate(seen, grad, block))
    return out


@dwconv_weight_gradient.register_fake
def _(x, grad, size, dilation):
    return x.new_empty(x.shape[1], 1, *size)


def _setup_context(ctx, inputs, output):
    x, weights, _, ctx.dilations, relu = inputs
    ctx.save_for_backward(x, *weights, *([output] if relu else []))


def _backward(ctx, grad):
    (x, *saved), branches = ctx.saved_tensors, len(ctx.dilations)
    weights, activated = saved[:branches], saved[branches:]
    if activated:
        grad = grad * (activated[0] > 0)
    grad_x = grad_bias = None
    if ctx.needs_input_grad[0]:
        reversed_weights = [weight.flip(2, 3) for weight in weights]
        grad_x = sum_dwconvs(grad, reversed_weights, None, ctx.dilations, False)
    grad_weights = [
        dwconv_weight_gradient(x, grad, weight.shape[2:], dilation) if needed else None
        for weight, dilation, needed in zip(
            weights, ctx.dilations, ctx.needs_input_grad[1], strict=True
        )
    ]
    if ctx.needs_input_grad[2]:
        grad_bias = grad.sum((0, 2, 3))
    return grad_x, grad_weights, grad_bias, None, None


sum_dwconvs.register_autograd(_backward, setup_context=_setup_context)


def _setup_weight_context(ctx, inputs, output):
    x, grad, _, ctx.dilation = inputs
    ctx.save_for_backward(x, grad)


def _backward_of_weight_gradient(ctx, weight):
    # The weights' gradient is linear in the input and in the output's gradient.
    (x, grad), dilations = ctx.saved_tensors, [ctx.dilation]
    grad_x = grad_grad = None
    if ctx.needs_input_grad[0]:
        grad_x = sum_dwconvs(grad, [weight.flip(2, 3)], None, dilations, False)
    if ctx.needs_input_grad[1]:
        grad_grad = sum_dwconvs(x, [weight], None, dilations, False)
    return grad_x, grad_grad, None, None


dwconv_weight_gradient.register_autograd(
    _backward_of_weight_gradient, setup_context=_setup_weight_context
)


@register_flop_formula(torch.ops.mmdmformer.sum_dwconvs)
def _(x_shape, weight_shapes, *args, **kwargs) -> int:
    taps = sum(math.prod(shape[2:]) for shape in weight_shapes)
    return 2 * math.prod(x_shape) * taps


@register_flop_formula(torch.ops.mmdmformer.dwconv_weight_gradient)
def _(x_shape, grad_shape, size, *args, **kwargs) -> int:
    return 2 * math.prod(x_shape) * math.prod(size)


def sum_fused(
    x: Tensor, weights: Sequence[Tensor], bias: Tensor | None, dilations: Sequence[int], relu: bool
) -> Tensor:
    """:func:`sum_dwconvs` for inference in float32.

    oneDNN adds each branch to the sum so far while it writes, in slices of the batch that fit the
    cache.
    """
    weights = _crop_all(weights, dilations, x)

    def sum_branches(x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        out: Any = None
        for i, (weight, dilation) in enumerate(zip(weights, dilations, strict=True)):
            padded, padding = _pad_in_part(x, weight, dilation)
            geometry = (padding, [1, 1], [dilation, dilation], x.shape[1])
            act = 'relu' if relu and i == len(weights) - 1 else 'none'
            out = convolve(padded, weight, None if i else bias, *geometry, act, out)
        return out

    return map_slices(sum_branches, x, x[0].nbytes)


def conv_with_split_padding(
    x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int
) -> Tensor:
    """One branch, padded in part before the convolution.

    oneDNN's fast kernel for dilated depthwise convolutions writes blocks of columns and takes no
    padding wider than a block; past that a general one runs, many times slower. The values are
    the same.
    """
    x, padding = _pad_in_part(x, weight, dilation)
    return F.conv2d(x, weight, bias, 1, padding, dilation, groups=x.shape[1])


def _pad_in_part(x: Tensor, weight: Tensor, dilation: int) -> tuple[Tensor, list[int]]:
    """Pad as far as the convolution should not do itself; the rest is returned."""
    rows, columns = (dilation * (size // 2) for size in weight.shape[2:])
    explicit = max(0, columns - _COLUMNS_PER_BLOCK) if dilation > 1 else 0
    return (F.pad(x, (explicit, explicit)) if explicit else x), [rows, columns - explicit]


def _crop_all(weights: Sequence[Tensor], dilations: Sequence[int], x: Tensor) -> list[Tensor]:
    pairs = zip(weights, dilations, strict=True)
    return [_crop_to_reach(weight, dilation, x.shape[2:]) for weight, dilation in pairs]


def _crop_to_reach(weight: Tensor, dilation: int, size: Sequence[int]) -> Tensor:
    """Drop the taps that see nothing but padding on a map of this size."""
    radii = [k // 2 for k in weight.shape[2:]]
    reach = [min(r, (side - 1) // dilation) for r, side in zip(radii, size, strict=True)]
    rows, columns = (slice(r - n, r + n + 1) for r, n in zip(radii, reach, strict=True))
    return weight[:, :, rows, columns]


def split_phases(x: Tensor, dilation: int, padding: Sequence[int]) -> Tensor:
    """Make of each image the dilation ** 2 images whose pixels a dilated kernel sees together.

    Each is padded by so many rows and columns on all sides.
    """
    height, width = x.shape[2:]
    rows, columns = (
        -(-side // dilation) + 2 * p for side, p in zip((height, width), padding, strict=True)
    )
    top, left = (dilation * p for p in padding)
    bottom, right = rows * dilation - height - top, columns * dilation - width - left
    if top or left or bottom or right:
        x = F.pad(x, (left, right, top, bottom))
    x = x.unflatten(3, (columns, dilation)).unflatten(2, (rows, dilation))
    return x.permute(0, 3, 5, 2, 4, 1).flatten(0, 2).permute(0, 3, 1, 2)


def _blocks_of_three(size: int) -> list[slice]:
    """Cover a kernel's columns by blocks of three, of which the last may overlap.

    >>> _blocks_of_three(7)
    [slice(0, 3, None), slice(3, 6, None), slice(4, 7, None)]
    """
    starts = [max(min(start, size - 3), 0) for start in range(0, size, 3)]
    return [slice(start, min(start + 3, size)) for start in starts]


def _correlate(x: Tensor, grad: Tensor, block: Tensor) -> Tensor:
    _, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad, x, block, None, [1, 1], [0, 0], [1, 1], False, [0, 0], grad.shape[1],
        [False, True, False],
    )  # fmt: skip
    return grad_weight
