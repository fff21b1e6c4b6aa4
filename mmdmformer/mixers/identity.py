# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""No token mixing: the baseline of all mixers."""

from torch import Tensor, nn

from ..layers.folding import as_affine
from ..layers.residual import build_channel_affine
from ..registry import TOKEN_MIXERS


@TOKEN_MIXERS.register_module()
class Identity(nn.Identity):
    """Passes tokens on, so that the rest of the network alone mixes them.

    Source: the ablation of `MetaFormer Is Actually What You Need for Vision
    <https://arxiv.org/abs/2111.11418>`_ (CVPR 2022), table 5. It costs nothing.

    Args:
        channels (int): Number of input and output channels.

    Examples:
        >>> import torch
        >>> from mmdmformer.mixers import Identity
        >>> Identity(64)(torch.rand(1, 64, 14, 14)).shape
        torch.Size([1, 64, 14, 14])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()

    def fold(self, norm: nn.Module, scale: Tensor) -> nn.Module:
        """Fold the residual branch, an affine map of each channel, into one layer.

        Args:
            norm (nn.Module): The batch norm before the mixer, of C channels.
            scale (Tensor): The layer scale after it, of shape (C, ).

        Returns:
            nn.Module: Computes ``x + scale * mixer(norm(x))`` in inference.

        Raises:
            ValueError: If the norm is no batch norm with running statistics.
        """
        factor, shift = as_affine(norm)
        return build_channel_affine(1 + scale * factor, scale * shift)
