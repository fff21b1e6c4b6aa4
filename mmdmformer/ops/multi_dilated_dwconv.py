# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Sum of parallel depth-wise convolutions of different kernel sizes and dilations."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from .fused_conv import convolve, fuses, map_slices
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
        return _fused(x, weights, bias, dilations, relu)
    convolve_branch = _CONVOLUTIONS[path]
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
    captured = torch.jit.is_tracing() or torch.compiler.is_compiling()
    if captured or torch.is_autocast_enabled('cpu') or x.dtype not in (torch.float, torch.double):
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


def _fused(
    x: Tensor, weights: Sequence[Tensor], bias: Tensor, dilations: Sequence[int], relu: bool
) -> Tensor:
    """Let oneDNN add each branch to the sum so far, image by image, in its favourite layout."""
    weights = [
        _crop_to_reach(weight, dilation, x.shape[2:])
        for weight, dilation in zip(weights, dilations, strict=True)
    ]

    def sum_branches(x: Tensor) -> Tensor:
        x, out = x.contiguous(memory_format=torch.channels_last), None
        for i, (weight, dilation) in enumerate(zip(weights, dilations, strict=True)):
            padded, padding = _pad_in_part(x, weight, dilation)
            geometry = (padding, [1, 1], [dilation, dilation], x.shape[1])
            act = 'relu' if relu and i == len(weights) - 1 else 'none'
            out = convolve(padded, weight, None if i else bias, *geometry, act, out)
        return out

    return map_slices(sum_branches, x, x[0].nbytes)


def dwconv_reference(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """The definition of one branch: a depth-wise convolution of torch's."""
    padding = [dilation * (size // 2) for size in weight.shape[2:]]
    return F.conv2d(x, weight, bias, 1, padding, dilation, groups=x.shape[1])


def _dwconv_split_padding(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """Pad in part before the convolution.

    oneDNN's fast depth-wise kernel takes paddings below the kernel size only; past that a
    reference kernel, about ten times slower, would run. The values are the same.
    """
    x, padding = _pad_in_part(x, weight, dilation)
    return F.conv2d(x, weight, bias, 1, padding, dilation, groups=x.shape[1])


def _pad_in_part(x: Tensor, weight: Tensor, dilation: int) -> tuple[Tensor, list[int]]:
    """Pad as far as the convolution should not do itself; the rest is returned."""
    padding = [dilation * (size // 2) for size in weight.shape[2:]]
    implicit = [min(p, size - 1) for p, size in zip(padding, weight.shape[2:], strict=True)]
    top, left = (p - i for p, i in zip(padding, implicit, strict=True))
    return (F.pad(x, (left, left, top, top)) if top or left else x), implicit


def _dwconv_cpu(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    weight = _crop_to_reach(weight, dilation, x.shape[2:])
    if torch.is_grad_enabled() and weight.requires_grad and max(weight.shape[2:]) > 3:
        return _DwconvWithFastWeightGradient.apply(x, weight, bias, dilation)
    return _dwconv_split_padding(x, weight, bias, dilation)


def _crop_to_reach(weight: Tensor, dilation: int, size: Sequence[int]) -> Tensor:
    """Drop the taps that see nothing but padding on a map of this size."""
    radii = [k // 2 for k in weight.shape[2:]]
    reach = [min(r, (side - 1) // dilation) for r, side in zip(radii, size, strict=True)]
    rows, columns = (slice(r - n, r + n + 1) for r, n in zip(radii, reach, strict=True))
    return weight[:, :, rows, columns]


class _DwconvWithFastWeightGradient(torch.autograd.Function):
    """torch computes the weight gradient of kernels above 3x3 tap by tap on CPUs; this does not."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dilation = dilation
        return _dwconv_split_padding(x, weight, bias, dilation)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad_x = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = _dwconv_split_padding(grad, weight.flip(2, 3), None, ctx.dilation)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum((0, 2, 3))
        return grad_x, _weight_gradient(x, grad, weight.shape[2:], ctx.dilation), grad_bias, None


def _weight_gradient(x: Tensor, grad: Tensor, kernel_size: Sequence[int], dilation: int) -> Tensor:
    """Correlate input and output gradient in blocks of columns for which oneDNN is fast."""
    padded = _split_phases(x, dilation, [size // 2 for size in kernel_size])
    grad = _split_phases(grad, dilation, (0, 0))
    channels, _, width = grad.shape[1:]
    out = x.new_empty(channels, 1, *kernel_size)
    for columns in _blocks_of_three(kernel_size[1]):
        block, seen = out[..., columns], padded[..., columns.start : columns.stop + width - 1]
        block.copy_(_weight_gradient_of_block(seen, grad, block))
    return out


def _split_phases(x: Tensor, dilation: int, padding: Sequence[int]) -> Tensor:
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


def _weight_gradient_of_block(x: Tensor, grad: Tensor, block: Tensor) -> Tensor:
    _, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad, x, block, None, [1, 1], [0, 0], [1, 1], False, [0, 0], grad.shape[1],
        [False, True, False],
    )  # fmt: skip
    return grad_weight


_CONVOLUTIONS: dict[str, Callable[[Tensor, Tensor, Tensor | None, int], Tensor]] = {
    'reference': dwconv_reference,
    'split': _dwconv_split_padding,
    'cpu': _dwconv_cpu,
}
