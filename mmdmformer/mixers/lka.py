# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Large-kernel attention, the token mixer of VAN."""

from torch import Tensor, nn

from ..registry import TOKEN_MIXERS


@TOKEN_MIXERS.register_module()
class LKA(nn.Module):
    r"""VAN's whole attention module: large-kernel attention between two pointwise convolutions.

    .. math::
        u &= \mathrm{GELU}(W_1 x) \\
        y &= x + W_2 (u \odot W_3 \, \mathrm{DW}_{7, d = 3}(\mathrm{DW}_{5}(u)))

    It is mmpretrain's ``SpatialAttention``, the unit that VAN's block has in
    the place of a token mixer, and not only the product within it that the
    paper calls LKA.

    Source: `Visual Attention Network <https://arxiv.org/abs/2202.09741>`_,
    equations 2 and 3, figure 3d. It costs HWC (3 C + 25 + 49) multiply-adds.

    Args:
        channels (int): Number C of input and output channels.

    Raises:
        ImportError: If mmpretrain, whose module it is, is not installed.

    Examples:
        >>> import torch
        >>> from mmdmformer.mixers import LKA
        >>> LKA(64)(torch.rand(1, 64, 14, 14)).shape
        torch.Size([1, 64, 14, 14])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        try:  # here, as the import takes seconds
            from mmpretrain.models.backbones.van import SpatialAttention
        except ImportError as error:
            raise ImportError(
                "mixer=dict(type='LKA') is mmpretrain's module, which cannot be imported "
                f'({error}): install mmpretrain, or choose another mixer, such as DepthwiseConv.'
            ) from error
        self.attention = SpatialAttention(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens.

        Args:
            x (Tensor): Input of shape (B, C, H, W).

        Returns:
            Tensor: Output of shape (B, C, H, W).
        """
        return self.attention(x)
