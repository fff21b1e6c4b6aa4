# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Sigmoid focal loss."""

from __future__ import annotations

import torch
from torch import Tensor

from .common import at_least_float32

__all__ = ['sigmoid_focal_loss_backward', 'sigmoid_focal_loss_forward']


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Sigmoid focal loss (Lin et al. 2017, equation 5) per logit; fills ``output``.

    Args:
        input (Tensor): (N, C) logits.
        target (Tensor): (N,) class indices; one outside ``0..C-1`` is background.
        weight (Tensor): (C,) factor by the target's class, or empty.
        output (Tensor): (N, C), overwritten.
        gamma (float): Exponent that plays well-classified examples down.
        alpha (float): Weight of the positive class; the negative ones have ``1 - alpha``.
    """
    logits = at_least_float32(input)
    sign, scale = _focal_parts(logits, target, weight, alpha)
    # p is the probability of what is true of each logit: sigmoid(x) or 1 - sigmoid(x).
    log_p = torch.nn.functional.logsigmoid(sign * logits)
    output.copy_(-scale * torch.sigmoid(-sign * logits) ** gamma * log_p)


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Gradient of :func:`sigmoid_focal_loss_forward` by its logits; fills ``grad_input``.

    Args:
        input (Tensor): (N, C) logits.
        target (Tensor): (N,) class indices; one outside ``0..C-1`` is background.
        weight (Tensor): (C,) factor by the target's class, or empty.
        grad_input (Tensor): (N, C), overwritten.
        gamma (float): As in the forward pass.
        alpha (float): As in the forward pass.
    """
    logits = at_least_float32(input)
    sign, scale = _focal_parts(logits, target, weight, alpha)
    log_p = torch.nn.functional.logsigmoid(sign * logits)
    p, q = torch.sigmoid(sign * logits), torch.sigmoid(-sign * logits)
    grad_input.copy_(sign * scale * q**gamma * (gamma * p * log_p - q))


def _focal_parts(
    logits: Tensor, target: Tensor, weight: Tensor, alpha: float
) -> tuple[Tensor, Tensor]:
    """Per logit: +1 where it is the target's, else -1; and its constant factor in the loss."""
    classes = torch.arange(logits.size(1), device=logits.device)
    positive = target[:, None] == classes
    one = logits.new_ones(())
    sign = torch.where(positive, one, -one)
    scale = torch.where(positive, one * alpha, one * (1 - alpha))
    if weight.numel():
        scale = scale * weight[target][:, None]
    return sign, scale
