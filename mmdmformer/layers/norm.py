# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
import torch.nn as nn
from torch import Tensor


class LayerNorm2d(nn.LayerNorm):
    """Layer normalisation over the channels of a feature map.

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
        """Normalise ``x`` of shape (B, C, H, W) at every position."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
