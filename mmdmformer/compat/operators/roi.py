# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Pooling of regions of interest, which are (N, 5): the image's number and corners in pixels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from .common import at_least_float32, fill_gradients, how_to_build, torchvision_operator

__all__ = [
    'deform_roi_pool_backward',
    'deform_roi_pool_forward',
    'roi_align_backward',
    'roi_align_forward',
]


def roi_align_forward(
    input: Tensor, rois: Tensor, output: Tensor, argmax_y: Tensor, argmax_x: Tensor, **settings
) -> None:
    """RoIAlign with average pooling; fills ``output``. Maxima are not used."""
    _roi_align('roi_align', input, rois, output, (), **settings)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    **settings,
) -> None:
    """Gradient of :func:`roi_align_forward` by its input; fills ``grad_input``."""
    _roi_align('_roi_align_backward', grad_output, rois, grad_input, grad_input.shape, **settings)


def _roi_align(
    operator: str,
    x: Tensor,
    rois: Tensor,
    result: Tensor,
    shape: Sequence[int],
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    if pool_mode != 1:  # the average
        raise NotImplementedError(
            "mmcv operator 'roi_align' with pool_mode='max' is not available, as no working "
            f"compiled mmcv is installed; use pool_mode='avg', or {how_to_build()}."
        )
    x = at_least_float32(x)
    settings = (spatial_scale, aligned_height, aligned_width, *shape, sampling_ratio, aligned)
    result.copy_(torchvision_operator(operator)(x, rois.to(x.dtype), *settings))


def deform_roi_pool_forward(
    input: Tensor, rois: Tensor, offset: Tensor, output: Tensor, **settings
) -> None:
    """Deformable RoI pooling (Dai et al. 2017): RoIAlign whose bins are moved.

    Args:
        input (Tensor): (B, C, H, W) features.
        rois (Tensor): (N, 5).
        offset (Tensor): (N, 2, height, width) shift of each bin along x and y, in sides of the
            region times ``gamma``; or empty.
        output (Tensor): (N, C, height, width), overwritten.
        **settings: ``pooled_height``, ``pooled_width``, ``spatial_scale``, ``sampling_ratio``
            (samples along a side of a bin; 0 for one a pixel) and ``gamma``.
    """
    inputs = at_least_float32(input), at_least_float32(offset)
    output.copy_(_deform_roi_pool(*inputs, rois=rois, **settings))


def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    **settings,
) -> None:
    """Gradients of :func:`deform_roi_pool_forward`; fills ``grad_input`` and ``grad_offset``."""
    moved = offset.numel() > 0
    inputs = [input, offset] if moved else [input]
    gradients = [grad_input, grad_offset] if moved else [grad_input]
    function = partial(_deform_roi_pool, rois=rois, **settings)
    fill_gradients(function, list(map(at_least_float32, inputs)), grad_output, gradients)


def _deform_roi_pool(
    features: Tensor,
    offset: Tensor | None = None,
    *,
    rois: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> Tensor:
    size = features.new_tensor([pooled_height, pooled_width])
    rois = rois.to(features.dtype)
    start = rois[:, [2, 1]] * spatial_scale - 0.5  # along y and x, as all pairs below
    extent = (rois[:, [4, 3]] - rois[:, [2, 1]]) * spatial_scale
    shift = features.new_zeros(len(rois), 2, pooled_height, pooled_width)
    if offset is not None and offset.numel():
        shift = gamma * extent[:, :, None, None] * offset.flip(1)
    counts = (extent / size).ceil().clamp(min=0).long()
    if sampling_ratio > 0:
        counts = torch.full_like(counts, sampling_ratio)
    pooled = features.new_zeros(len(rois), features.size(1), pooled_height, pooled_width)
    for count in counts.unique(dim=0):  # regions with equally many samples at once
        mine = (counts == count).all(1).nonzero()[:, 0]
        axes = [
            _sample_positions(start[mine, i], (extent / size)[mine, i], shift[mine, i], i, count[i])
            for i in (0, 1)
        ]
        if count.prod():
            samples = _bilinear(features, rois[mine, 0].long(), *axes)
            pooled = pooled.index_copy(0, mine, samples.mean((3, 4)).permute(0, 3, 1, 2))
    return pooled


def _sample_positions(
    start: Tensor, side: Tensor, shift: Tensor, axis: int, count: Tensor
) -> Tensor:
    """Positions (N, height, width, count) of the samples of each bin along one axis."""
    bins = torch.arange(shift.size(1 + axis), device=shift.device)
    bins = bins[:, None, None] if axis == 0 else bins[None, :, None]
    steps = (torch.arange(int(count), device=shift.device, dtype=shift.dtype) + 0.5) / count
    return (start[:, None, None] + shift)[..., None] + (bins + steps) * side[:, None, None, None]


def _bilinear(features: Tensor, images: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Values (N, height, width, ny, nx, C) at points; zero further than one pixel outside."""
    y, x = y[..., :, None], x[..., None, :]
    height, width = features.shape[2:]
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    y0, x0 = y.detach().long(), x.detach().long()
    y1, x1 = (y0 + 1).clamp(max=height - 1), (x0 + 1).clamp(max=width - 1)
    images = images[:, None, None, None, None]
    ly, lx = (y - y0)[..., None], (x - x0)[..., None]
    top = (1 - lx) * features[images, :, y0, x0] + lx * features[images, :, y0, x1]
    bottom = (1 - lx) * features[images, :, y1, x0] + lx * features[images, :, y1, x1]
    return ((1 - ly) * top + ly * bottom) * inside[..., None]
