# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Deformable and masked convolutions."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from .common import at_least_float32, fill_gradients, torchvision_operator

__all__ = [
    'deform_conv_backward_input',
    'deform_conv_backward_parameters',
    'deform_conv_forward',
    'masked_col2im_forward',
    'masked_im2col_forward',
    'modulated_deform_conv_backward',
    'modulated_deform_conv_forward',
]


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    **settings,
) -> None:
    """Deformable convolution (Dai et al. 2017); fills ``output``.

    Args:
        input (Tensor): (B, C_in, H, W) features.
        weight (Tensor): (C_out, C_in / group, kH, kW).
        offset (Tensor): (B, 2 * deformable_group * kH * kW, H_out, W_out) shift of each tap in
            pixels, y before x.
        output (Tensor): (B, C_out, H_out, W_out), overwritten.
        columns (Tensor): Not used.
        ones (Tensor): Not used.
        **settings: ``kH``, ``dH`` (stride), ``padH``, ``dilationH``, the same for ``W``, ``group``,
            ``deformable_group`` and ``im2col_step`` (not used).
    """
    output.copy_(_plain_deform_conv(settings)(*map(at_least_float32, (input, weight, offset))))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **settings,
) -> None:
    """Gradients of :func:`deform_conv_forward`; fills ``grad_input`` and ``grad_offset``."""
    convolve, weight = _plain_deform_conv(settings), at_least_float32(weight)
    inputs = list(map(at_least_float32, (input, offset)))
    fill_gradients(
        lambda x, offset: convolve(x, weight, offset),
        inputs,
        grad_output,
        [grad_input, grad_offset],
    )


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    *,
    scale: float,
    **settings,
) -> None:
    """Gradient of :func:`deform_conv_forward` by its weight, times ``scale``."""
    convolve, shape = _plain_deform_conv(settings), grad_weight.shape
    input, offset = at_least_float32(input), at_least_float32(offset)
    # It is linear in its weight: any will do.
    fill_gradients(
        lambda weight: convolve(input, weight, offset),
        [input.new_zeros(shape)],
        scale * grad_output,
        [grad_weight],
    )


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    *,
    with_bias: bool,
    **settings,
) -> None:
    """Modulated deformable convolution (Zhu et al. 2019); fills ``output``.

    Args:
        input (Tensor): (B, C_in, H, W) features.
        weight (Tensor): (C_out, C_in / group, kernel_h, kernel_w).
        bias (Tensor): (C_out,), or empty.
        ones (Tensor): Not used.
        offset (Tensor): (B, 2 * deformable_group * kernel_h * kernel_w, H_out, W_out) shift of each
            tap in pixels, y before x. Of larger ones, as DyHead gives, mmcv reads each image's
            first values, row after row, as though they had this shape; so does this.
        mask (Tensor): (B, deformable_group * kernel_h * kernel_w, H_out, W_out) factor of each tap;
            larger ones are read in the same way.
        output (Tensor): (B, C_out, H_out, W_out), overwritten.
        columns (Tensor): Not used.
        with_bias (bool): Whether ``bias`` is added.
        **settings: ``kernel_h``, ``stride_h``, ``pad_h``, ``dilation_h``, the same for ``w``,
            ``group`` and ``deformable_group``.
    """
    inputs = [input, weight, offset, mask, *([bias] if with_bias else [])]
    output.copy_(_deform_conv(*map(at_least_float32, inputs), size=output.shape[2:], **settings))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    *,
    with_bias: bool,
    **settings,
) -> None:
    """Gradients of :func:`modulated_deform_conv_forward`; fills the five tensors for them."""
    inputs, gradients = (
        [input, weight, offset, mask],
        [grad_input, grad_weight, grad_offset, grad_mask],
    )
    if with_bias:
        inputs, gradients = [*inputs, bias], [*gradients, grad_bias]
    function = partial(_deform_conv, size=grad_output.shape[2:], **settings)
    fill_gradients(function, list(map(at_least_float32, inputs)), grad_output, gradients)


def _plain_deform_conv(settings: dict) -> partial:
    """:func:`_deform_conv` with the settings of the convolution that is not modulated."""
    names = dict(d='stride', pad='pad', dilation='dilation')
    return partial(
        _deform_conv,
        group=settings['group'],
        deformable_group=settings['deformable_group'],
        **{
            f'{theirs}_{axis.lower()}': settings[ours + axis]
            for ours, theirs in names.items()
            for axis in 'HW'
        },
    )


def _deform_conv(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    size: torch.Size | None = None,
    **_,
) -> Tensor:
    modulated = mask is not None
    if mask is not None and size is not None:
        offset, mask = _read_as(offset, size), _read_as(mask, size)
    return torchvision_operator('deform_conv2d')(
        input,
        weight,
        offset,
        mask if modulated else input.new_zeros(len(input), 0),
        input.new_zeros(len(weight)) if bias is None else bias,
        *(stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w),
        *(group, deformable_group, modulated),
    )


def _read_as(x: Tensor, size: torch.Size) -> Tensor:
    """The first values of each image, as though they were of ``size``."""
    if x.shape[2:] == size or x.shape[2:].numel() < size.numel():  # torchvision names the latter
        return x
    return x.flatten(1)[:, : x.size(1) * size.numel()].unflatten(1, (x.size(1), *size))


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    *,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Gather what a convolution of stride 1 sees at chosen places; fills ``col``.

    Args:
        im (Tensor): (1, C, H, W) features.
        mask_h_idx (Tensor): (N,) rows of the places.
        mask_w_idx (Tensor): (N,) columns of the places.
        col (Tensor): (C * kernel_h * kernel_w, N), overwritten.
        kernel_h (int): Height of the window.
        kernel_w (int): Width of the window.
        pad_h (int): Rows of zeros above and below.
        pad_w (int): Columns of zeros to the left and right.
    """
    padded = torch.nn.functional.pad(im, (pad_w, pad_w, pad_h, pad_h))[0]
    rows = mask_h_idx + torch.arange(kernel_h, device=im.device)[:, None, None]
    columns = mask_w_idx + torch.arange(kernel_w, device=im.device)[:, None]
    col.copy_(padded[:, rows, columns].reshape(col.shape))


def masked_col2im_forward(
    col: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    im: Tensor,
    *,
    height: int,
    width: int,
    channels: int,
) -> None:
    """Put values (C, N) at chosen places of ``im`` (1, C, H, W)."""
    im[0][:, mask_h_idx, mask_w_idx] = col
