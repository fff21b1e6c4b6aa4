# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Depthwise convolution with any set of taps, as Triton kernels.

A sum of depthwise convolutions is one convolution whose taps are those of all branches, so that
the input is read once for all. It is a torch.library operator, which torch.compile and autograd
know. Sums are accumulated in float32 (float64 for float64), whatever the type of the input.

Triton's interpreter runs the kernels on a CPU where TRITON_INTERPRET=1 is set before this module
is imported.
"""

import math
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

_BLOCK_H, _BLOCK_W = 8, 32  # output positions of a program
_MAX_SPLITS = 32  # programs that share the sum over positions for one weight's gradient


@triton.jit
def _convolve_kernel(
    x, weight, bias, offsets, out, channels, height, width,
    x_b, x_c, x_h, x_w, out_b, out_c, out_h, out_w,
    NUM_TAPS: tl.constexpr, HAS_BIAS: tl.constexpr, RELU: tl.constexpr, ACC: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """One tile of one channel of one image: ``sum_t weight[c, t] * x[.. + offset_t] + bias[c]``.

    A thread computes two outputs, for which a tap costs it 38 instructions on sm_80 and 39 on
    sm_90 in float32, 42 and 43 in half precision (Triton 3.6, no stride known).
    """
    plane, tile = tl.program_id(0), tl.program_id(1)
    b, c = (plane // channels).to(tl.int64), (plane % channels).to(tl.int64)
    tiles_in_row = tl.cdiv(width, BLOCK_W)
    rows = (tile // tiles_in_row * BLOCK_H + tl.arange(0, BLOCK_H))[:, None]
    columns = (tile % tiles_in_row * BLOCK_W + tl.arange(0, BLOCK_W))[None, :]
    total = tl.zeros((BLOCK_H, BLOCK_W), ACC)
    for tap in range(NUM_TAPS):
        r, s = rows + tl.load(offsets + 2 * tap), columns + tl.load(offsets + 2 * tap + 1)
        inside = (r >= 0) & (r < height) & (s >= 0) & (s < width)
        value = tl.load(x + b * x_b + c * x_c + r * x_h + s * x_w, inside, other=0.0)
        total += value.to(ACC) * tl.load(weight + c * NUM_TAPS + tap).to(ACC)
    if HAS_BIAS:
        total += tl.load(bias + c).to(ACC)
    if RELU:
        total = tl.maximum(total, 0.0, tl.PropagateNan.ALL)
    place = out + b * out_b + c * out_c + rows * out_h + columns * out_w
    tl.store(place, total.to(out.dtype.element_ty), (rows < height) & (columns < width))


@triton.jit
def _weight_gradient_kernel(
    x, grad, offsets, partial, batch, height, width,
    x_b, x_c, x_h, x_w, grad_b, grad_c, grad_h, grad_w,
    num_splits, NUM_TAPS: tl.constexpr, ACC: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """A share of ``sum_{b, y, x} grad[b, c, y, x] * x[b, c, (y, x) + offset_t]``.

    Two positions of a tile cost a thread 110 instructions on sm_80 and 113 on sm_90 in float32,
    115 and 118 in half precision.
    """
    tap, split, c = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    dy, dx = tl.load(offsets + 2 * tap), tl.load(offsets + 2 * tap + 1)
    tiles_in_row = tl.cdiv(width, BLOCK_W)
    tiles_in_plane = tiles_in_row * tl.cdiv(height, BLOCK_H)
    total = tl.zeros((BLOCK_H, BLOCK_W), ACC)
    job = split
    while job < batch * tiles_in_plane:
        b, tile = (job // tiles_in_plane).to(tl.int64), job % tiles_in_plane
        rows = (tile // tiles_in_row * BLOCK_H + tl.arange(0, BLOCK_H))[:, None]
        columns = (tile % tiles_in_row * BLOCK_W + tl.arange(0, BLOCK_W))[None, :]
        r, s = rows + dy, columns + dx
        inside = (r >= 0) & (r < height) & (s >= 0) & (s < width)
        inside = inside & (rows < height) & (columns < width)
        value = tl.load(x + b * x_b + c * x_c + r * x_h + s * x_w, inside, other=0.0)
        place = grad + b * grad_b + c * grad_c + rows * grad_h + columns * grad_w
        total += value.to(ACC) * tl.load(place, inside, other=0.0).to(ACC)
        job += num_splits
    place = partial + (c * NUM_TAPS + tap) * num_splits + split
    tl.store(place, tl.sum(tl.sum(total, 1), 0))


@torch.library.custom_op('mmdmformer::dwconv_taps', mutates_args=())
def dwconv_taps(
    x: Tensor, weight: Tensor, bias: Tensor | None, offsets: Tensor, relu: bool = False
) -> Tensor:
    """Convolve every channel with its own taps, with zeros around the map.

    Args:
        x (Tensor): Input of shape (B, C, H, W), in any memory format.
        weight (Tensor): Taps of shape (C, T), contiguous.
        bias (Tensor, optional): Of shape (C, ).
        offsets (Tensor): Row and column offset of each tap in pixels, int32
            of shape (T, 2).
        relu (bool): Whether to apply ReLU at the end. Defaults to False.

    Returns:
        Tensor: Output of shape (B, C, H, W), of the input's type and memory
        format.
    """
    batch, channels, height, width = x.shape
    out = torch.empty_like(x)
    _convolve_kernel[batch * channels, _num_tiles(height, width)](
        x, weight, bias, offsets, out, channels, height, width, *x.stride(), *out.stride(),
        NUM_TAPS=weight.shape[1], HAS_BIAS=bias is not None, RELU=relu, ACC=_accumulator(x),
        BLOCK_H=_BLOCK_H, BLOCK_W=_BLOCK_W,
    )  # fmt: skip
    return out


@torch.library.custom_op('mmdmformer::dwconv_taps_weight_gradient', mutates_args=())
def dwconv_taps_weight_gradient(x: Tensor, grad: Tensor, offsets: Tensor) -> Tensor:
    """The gradient of :func:`dwconv_taps` with respect to ``weight``.

    Args:
        x (Tensor): Input of shape (B, C, H, W).
        grad (Tensor): Gradient of the output, of the same shape.
        offsets (Tensor): As in :func:`dwconv_taps`.

    Returns:
        Tensor: Of shape (C, T), float32, or float64 for float64.
    """
    batch, channels, height, width = x.shape
    taps = len(offsets)
    splits = min(_MAX_SPLITS, batch * _num_tiles(height, width))
    partial = x.new_empty(channels, taps, splits, dtype=_sum_dtype(x))
    _weight_gradient_kernel[taps, splits, channels](
        x, grad, offsets, partial, batch, height, width, *x.stride(), *grad.stride(),
        splits, NUM_TAPS=taps, ACC=_accumulator(x),
        BLOCK_H=_BLOCK_H, BLOCK_W=_BLOCK_W,
    )  # fmt: skip
    return partial.sum(2)


@dwconv_taps.register_fake
def _(x, weight, bias, offsets, relu=False):
    return torch.empty_like(x)


@dwconv_taps_weight_gradient.register_fake
def _(x, grad, offsets):
    return x.new_empty(x.shape[1], len(offsets), dtype=_sum_dtype(x))


def _setup_context(ctx, inputs, output):
    x, weight, bias, offsets, relu = inputs
    ctx.save_for_backward(x, weight, offsets, *([output] if relu else []))
    ctx.bias_dtype = None if bias is None else bias.dtype


def _backward(ctx, grad):
    x, weight, offsets, *activated = ctx.saved_tensors
    grad_x = grad_weight = grad_bias = None
    if activated:
        grad = grad * (activated[0] > 0)
    if ctx.needs_input_grad[0]:
        grad_x = dwconv_taps(grad, weight, None, -offsets)
    if ctx.needs_input_grad[1]:
        grad_weight = dwconv_taps_weight_gradient(x, grad, offsets).to(weight.dtype)
    if ctx.needs_input_grad[2]:
        grad_bias = grad.sum((0, 2, 3), dtype=ctx.bias_dtype)
    return grad_x, grad_weight, grad_bias, None, None


dwconv_taps.register_autograd(_backward, setup_context=_setup_context)


def _setup_weight_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _backward_of_weight_gradient(ctx, weight):
    # The weights' gradient is linear in the input and in the output's gradient.
    x, grad, offsets = ctx.saved_tensors
    grad_x = grad_grad = None
    if ctx.needs_input_grad[0]:
        grad_x = dwconv_taps(grad, weight.contiguous(), None, -offsets)
    if ctx.needs_input_grad[1]:
        grad_grad = dwconv_taps(x, weight.contiguous(), None, offsets)
    return grad_x, grad_grad, None


dwconv_taps_weight_gradient.register_autograd(
    _backward_of_weight_gradient, setup_context=_setup_weight_context
)


@register_flop_formula(torch.ops.mmdmformer.dwconv_taps)
def _(x_shape, weight_shape, *args, **kwargs) -> int:
    return 2 * math.prod(x_shape) * weight_shape[1]


@register_flop_formula(torch.ops.mmdmformer.dwconv_taps_weight_gradient)
def _(x_shape, grad_shape, offsets_shape, *args, **kwargs) -> int:
    return 2 * math.prod(x_shape) * offsets_shape[0]


def _num_tiles(height: int, width: int) -> int:
    return triton.cdiv(height, _BLOCK_H) * triton.cdiv(width, _BLOCK_W)


def _sum_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _accumulator(x: Tensor) -> tl.dtype:
    return tl.float64 if x.dtype == torch.float64 else tl.float32


@lru_cache(maxsize=64)
def tap_offsets(
    kernel_sizes: tuple[tuple[int, int], ...], dilations: tuple[int, ...], device: torch.device
) -> Tensor:
    """The offsets of all taps of branches, in the order of their flattened kernels.

    Args:
        kernel_sizes (tuple[tuple[int, int]]): Height and width of each
            branch's kernel, both odd.
        dilations (tuple[int]): Dilation of each branch.
        device (torch.device): Where to put them.

    Returns:
        Tensor: Row and column offsets in pixels, int32 of shape (T, 2).

    Examples:
        >>> tap_offsets(((1, 3), (1, 1)), (2, 5), torch.device('cpu')).tolist()
        [[0, -2], [0, 0], [0, 2], [0, 0]]
    """
    offsets = [
        (dilation * (i - rows // 2), dilation * (j - columns // 2))
        for (rows, columns), dilation in zip(kernel_sizes, dilations, strict=True)
        for i in range(rows)
        for j in range(columns)
    ]
    return torch.tensor(offsets, dtype=torch.int32, device=device)
