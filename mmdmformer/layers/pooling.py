# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
import torch
from torch import Tensor, nn


class AdaptiveAveragePool(nn.Module):
    """``nn.AdaptiveAvgPool2d`` as two matrix products, one for each side.

    ONNX pools with windows of one fixed size only, and those of adaptive
    pooling differ in size and follow the map's.

    Args:
        size (int): Height and width of the output.

    Examples:
        >>> x = torch.rand(1, 2, 7, 11)
        >>> torch.allclose(AdaptiveAveragePool(3)(x), nn.AdaptiveAvgPool2d(3)(x))
        True
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` of shape (B, C, H, W) to (B, C, size, size)."""
        rows, columns = (self._weights(side, x) for side in x.shape[2:])
        return rows @ x @ columns.T

    def _weights(self, side: int, x: Tensor) -> Tensor:
        """The share that each of ``side`` values has in each average."""
        place = torch.arange(side, device=x.device)
        start = torch.arange(self.size, device=x.device)[:, None] * side // self.size
        last = (torch.arange(1, self.size + 1, device=x.device)[:, None] * side - 1) // self.size
        inside = ((place >= start) & (place <= last)).to(x.dtype)
        return inside / inside.sum(1, keepdim=True)
