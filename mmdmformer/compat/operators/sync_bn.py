# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Batch normalization whose statistics mmcv sums over processes between these steps.

Activations and their gradients are (B, C, pixels), everything else (C,).
"""

from __future__ import annotations

from torch import Tensor

__all__ = [
    'sync_bn_backward_data',
    'sync_bn_backward_param',
    'sync_bn_forward_mean',
    'sync_bn_forward_output',
    'sync_bn_forward_var',
]


def sync_bn_forward_mean(input: Tensor, mean: Tensor) -> None:
    """Mean of this process; fills ``mean``."""
    mean.copy_(input.float().mean((0, 2)))


def sync_bn_forward_var(input: Tensor, mean: Tensor, var: Tensor) -> None:
    """Mean square distance from the mean of all processes; fills ``var``."""
    var.copy_((input.float() - mean[:, None]).square().mean((0, 2)))


def sync_bn_forward_output(
    input: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    norm: Tensor,
    std: Tensor,
    output: Tensor,
    *,
    eps: float,
    momentum: float | Tensor,
    group_size: int,
) -> None:
    """Normalize with the statistics of all ``group_size`` processes.

    Fills ``norm`` (without weight and bias), ``std`` and ``output``, and moves the running
    statistics by ``momentum``, the variance as the unbiased one.
    """
    std.copy_((var + eps).sqrt())
    norm.copy_((input.float() - mean[:, None]) / std[:, None])
    output.copy_(norm if weight is None or bias is None else norm * weight[:, None] + bias[:, None])
    if running_mean is not None and running_var is not None:
        count = input[:, 0].numel() * group_size
        running_mean += momentum * (mean - running_mean)
        running_var += momentum * (var * count / max(1, count - 1) - running_var)


def sync_bn_backward_param(
    grad_output: Tensor, norm: Tensor, grad_weight: Tensor, grad_bias: Tensor
) -> None:
    """Gradients of this process by weight and bias; fills them."""
    grad_weight.copy_((grad_output.float() * norm).sum((0, 2)))
    grad_bias.copy_(grad_output.float().sum((0, 2)))


def sync_bn_backward_data(
    grad_output: Tensor,
    weight: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    norm: Tensor,
    std: Tensor,
    grad_input: Tensor,
) -> None:
    """Gradient by the input (Ioffe and Szegedy 2015), ``grad_weight`` and ``grad_bias`` being
    means over processes; fills ``grad_input``."""
    through_statistics = norm * grad_weight[:, None] + grad_bias[:, None]
    gradient = grad_output.float() - through_statistics / grad_output[:, 0].numel()
    grad_input.copy_(gradient * (weight / std)[:, None])
