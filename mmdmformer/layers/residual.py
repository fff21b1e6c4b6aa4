# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Modules of folded residual branches."""

from torch import Tensor, nn


class Residual(nn.Sequential):
    """Layers, one after the other, whose input is added to their output.

    Args:
        layers (nn.Module): The layers.

    Examples:
        >>> import torch
        >>> Residual(nn.ReLU())(torch.tensor([-1.0, 2.0]))
        tensor([-1.,  4.])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Compute ``x + layers(x)``."""
        return x + super().forward(x)


def build_channel_affine(factor: Tensor, shift: Tensor | None = None) -> nn.Conv2d:
    """Build the layer that multiplies each channel by a factor, and shifts it.

    Args:
        factor (Tensor): Of shape (C, ).
        shift (Tensor, optional): Of shape (C, ). Defaults to None.

    Returns:
        nn.Conv2d: A depthwise 1x1 convolution.

    Examples:
        >>> import torch
        >>> layer = build_channel_affine(torch.tensor([2.0, 3.0]), torch.tensor([0.0, 1.0]))
        >>> layer(torch.ones(1, 2, 1, 1)).flatten().tolist()
        [2.0, 4.0]
    """
    channels = len(factor)
    layer = nn.Conv2d(channels, channels, 1, groups=channels, bias=shift is not None)
    layer.weight = nn.Parameter(factor.detach()[:, None, None, None].clone())
    if shift is not None:
        layer.bias = nn.Parameter(shift.detach().clone())
    return layer
