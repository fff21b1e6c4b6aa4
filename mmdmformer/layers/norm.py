# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
import torch
import torch.nn as nn
from torch import Tensor
from torch.autograd.function import FunctionCtx


class LayerNorm2d(nn.LayerNorm):
    """Layer normalization over the channels of a feature map.

    Args:
        num_channels (int): Number of channels.
        eps (float): Added to the variance. Defaults to 1e-6.

    Examples:
        >>> import torch
        >>> y = LayerNorm2d(8)(torch.rand(2, 8, 4, 5))
        >>> y.shape, bool(y.mean(dim=1).abs().max() < 1e-6)
        (torch.Size([2, 8, 4, 5]), True)
    """

    def __init__(self, num_channels: int, eps: float = 1e-6) -> None:
        super().__init__(num_channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x`` of shape (B, C, H, W) at every position."""
        y = super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        if torch.compiler.is_compiling() and y.requires_grad:
            y = _GradientOfSameFormat.apply(y)
        return y


class _GradientOfSameFormat(torch.autograd.Function):
    """The identity, but for the memory layout of the gradient.

    For gradients that are not contiguous, torch 2.11 predicts other strides than the backward of
    its layer norm gives, and a compiled network ends at the next view.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:
        return grad.contiguous(memory_format=torch.channels_last)
