# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Content-aware upsampling (CARAFE) and pointwise spatial attention (PSA)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from .common import at_least_float32, fill_gradients

__all__ = [
    'carafe_backward',
    'carafe_forward',
    'carafe_naive_backward',
    'carafe_naive_forward',
    'psamask_backward',
    'psamask_forward',
]


def carafe_naive_forward(features: Tensor, masks: Tensor, output: Tensor, **settings) -> None:
    """Upsampling by a kernel of each output pixel's own (Wang et al. 2019); fills ``output``.

    Args:
        features (Tensor): (B, C, H, W).
        masks (Tensor): (B, group_size * kernel_size ** 2, scale_factor * H, scale_factor * W)
            weights of the pixels around the one below; groups of channels have their own.
        output (Tensor): (B, C, scale_factor * H, scale_factor * W), overwritten.
        **settings: ``kernel_size``, ``group_size`` and ``scale_factor``.
    """
    output.copy_(_carafe(at_least_float32(features), at_least_float32(masks), **settings))


def carafe_naive_backward(
    top_grad: Tensor,
    features: Tensor,
    masks: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    **settings,
) -> None:
    """Gradients of :func:`carafe_naive_forward`; fills ``bottom_grad`` and ``mask_grad``."""
    inputs = list(map(at_least_float32, (features, masks)))
    fill_gradients(partial(_carafe, **settings), inputs, top_grad, [bottom_grad, mask_grad])


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    **settings,
) -> None:
    """:func:`carafe_naive_forward`; ``rfeatures`` keeps the features for the backward pass."""
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, **settings)


def carafe_backward(
    top_grad: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rtop_grad: Tensor,
    rbottom_grad_hs: Tensor,
    rbottom_grad: Tensor,
    rmask_grad: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    **settings,
) -> None:
    """Gradients of :func:`carafe_forward`; fills ``bottom_grad`` and ``mask_grad``."""
    carafe_naive_backward(top_grad, rfeatures, masks, bottom_grad, mask_grad, **settings)


def _carafe(
    features: Tensor, masks: Tensor, *, kernel_size: int, group_size: int, scale_factor: int
) -> Tensor:
    height, width = features.shape[2:]
    windows = torch.nn.functional.unfold(features, kernel_size, padding=kernel_size // 2)
    windows = windows.reshape(len(features), group_size, -1, kernel_size**2, height, width)
    pixels = height, scale_factor, width, scale_factor
    weights = masks.reshape(len(masks), group_size, kernel_size**2, *pixels)
    output = torch.einsum('bgckhw,bgkhiwj->bgchiwj', windows, weights)
    return output.reshape(*features.shape[:2], height * scale_factor, width * scale_factor)


def psamask_forward(input: Tensor, output: Tensor, **settings) -> None:
    """Spread each pixel's mask, which is centered on it, over the image (Zhao et al. 2018).

    Args:
        input (Tensor): (B, h_mask * w_mask, H, W) mask of each pixel.
        output (Tensor): (B, H * W, H, W), overwritten. Collecting, channels are the pixels that
            a mask covers and places the pixels that it belongs to; distributing, the reverse.
        **settings: ``psa_type`` (0 collects, 1 distributes), ``num_``, ``h_feature``,
            ``w_feature``, ``h_mask``, ``w_mask``, ``half_h_mask`` and ``half_w_mask``.
    """
    output.copy_(_psamask(input, **settings))


def psamask_backward(grad_output: Tensor, grad_input: Tensor, **settings) -> None:
    """Gradient of :func:`psamask_forward`; fills ``grad_input``."""
    # It only moves values: the gradient does not depend on them.
    any_input = torch.zeros_like(grad_input)
    fill_gradients(partial(_psamask, **settings), [any_input], grad_output, [grad_input])


def _psamask(
    masks: Tensor,
    *,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> Tensor:
    rows, columns = (torch.arange(n, device=masks.device) for n in (h_feature, w_feature))
    # Where in its own mask a pixel (the second index) finds another one (the first).
    y = rows[:, None] - rows + half_h_mask
    x = columns[:, None] - columns + half_w_mask
    covered = ((y >= 0) & (y < h_mask))[:, None, :, None] & ((x >= 0) & (x < w_mask))[:, None]
    collected = masks.unflatten(1, (h_mask, w_mask))[
        :,
        y.clamp(0, h_mask - 1)[:, None, :, None],
        x.clamp(0, w_mask - 1)[:, None],
        rows[:, None],
        columns,
    ]
    collected = (collected * covered).flatten(3).flatten(1, 2)
    if psa_type == 1:
        collected = collected.transpose(1, 2)
    return collected.unflatten(2, (h_feature, w_feature))
