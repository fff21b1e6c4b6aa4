# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Average pooling, the token mixer of PoolFormer."""

from torch import Tensor, nn

from ..layers.folding import as_affine
from ..layers.residual import Residual, build_channel_affine
from ..registry import TOKEN_MIXERS
from .arguments import check_odd


@TOKEN_MIXERS.register_module()
class Pooling(nn.Module):
    r"""The average over the positions around each one, less the position itself.

    .. math:: y_i = \frac{1}{|N(i)|} \sum_{j \in N(i)} x_j - x_i

    where N(i) are the k x k positions around i, as far as they are on the map.
    The input is taken away because the block adds it.

    Source: `MetaFormer Is Actually What You Need for Vision
    <https://arxiv.org/abs/2111.11418>`_ (CVPR 2022), equation 4. It has no
    parameters and no multiply-adds, but HWC k^2 additions.

    Args:
        channels (int): Number of input and output channels.
        kernel_size (int): Odd side k of the pooling windows. Defaults to 3.

    Raises:
        ValueError: If ``kernel_size`` is even or not positive.

    Examples:
        >>> import torch
        >>> from mmdmformer.mixers import Pooling
        >>> Pooling(64)(torch.rand(1, 64, 14, 14)).shape
        torch.Size([1, 64, 14, 14])
    """

    def __init__(self, channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        check_odd('kernel_size', kernel_size)
        self.pool = nn.AvgPool2d(kernel_size, 1, kernel_size // 2, count_include_pad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens.

        Args:
            x (Tensor): Input of shape (B, C, H, W).

        Returns:
            Tensor: Output of shape (B, C, H, W).
        """
        return self.pool(x) - x

    def fold(self, norm: nn.Module, scale: Tensor) -> nn.Module:
        """Fold norm and layer scale into one factor of each channel.

        An average of values that are shifted alike is shifted as they are, so
        that the norm's shift cancels.

        Args:
            norm (nn.Module): The batch norm before the mixer, of C channels.
            scale (Tensor): The layer scale after it, of shape (C, ).

        Returns:
            nn.Module: Computes ``x + scale * mixer(norm(x))`` in inference.

        Raises:
            ValueError: If the norm is no batch norm with running statistics.
        """
        factor, _ = as_affine(norm)
        return Residual(self, build_channel_affine(scale * factor))
