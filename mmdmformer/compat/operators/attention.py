# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Multi-scale deformable attention, by mmcv's own form of it in torch."""

from __future__ import annotations

from torch import Tensor

from .common import at_least_float32, fill_gradients

__all__ = ['ms_deform_attn_backward', 'ms_deform_attn_forward']


def ms_deform_attn_forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_loc: Tensor,
    attn_weight: Tensor,
    *,
    im2col_step: int,
) -> Tensor:
    """Multi-scale deformable attention (Zhu et al. 2021).

    Args:
        value (Tensor): (B, sum of H * W over L levels, heads, C).
        spatial_shapes (Tensor): (L, 2) H and W of each level.
        level_start_index (Tensor): (L,), not used.
        sampling_loc (Tensor): (B, queries, heads, L, points, 2) x and y of each sample, 0..1 within
            the level.
        attn_weight (Tensor): (B, queries, heads, L, points).
        im2col_step (int): Not used.

    Returns:
        Tensor: (B, queries, heads * C).
    """
    inputs = map(at_least_float32, (value, sampling_loc, attn_weight))
    return _attend(spatial_shapes)(*inputs).to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_loc: Tensor,
    attn_weight: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    *,
    im2col_step: int,
) -> None:
    """Gradients of :func:`ms_deform_attn_forward`; fills the three tensors for them."""
    inputs = list(map(at_least_float32, (value, sampling_loc, attn_weight)))
    gradients = [grad_value, grad_sampling_loc, grad_attn_weight]
    fill_gradients(_attend(spatial_shapes), inputs, grad_output, gradients)


def _attend(spatial_shapes: Tensor):
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    shapes = spatial_shapes.tolist()
    return lambda value, *rest: multi_scale_deformable_attn_pytorch(value, shapes, *rest)
