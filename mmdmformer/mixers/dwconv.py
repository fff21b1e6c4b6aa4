# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Depthwise convolution with a large kernel, as in RepLKNet."""

from typing import Any

import torch.nn as nn
import torch.nn.functional as F
from mmcv.cnn import build_activation_layer, build_norm_layer
from torch import Tensor

from ..layers.folding import as_affine, fold_after, fold_before, fold_sequence
from ..layers.residual import Residual
from ..registry import TOKEN_MIXERS
from .arguments import check_odd, check_positive


@TOKEN_MIXERS.register_module()
class DepthwiseConv(nn.Module):
    r"""Depthwise convolution between two pointwise ones, with a small kernel beside the large.

    .. math::
        m &= \mathrm{ReLU}(\mathrm{BN}(W_1 x)) \\
        y &= \mathrm{BN}(W_2 \, \mathrm{ReLU}(
             \mathrm{BN}(\mathrm{DW}_{k}(m)) + \mathrm{BN}(\mathrm{DW}_{k'}(m))))

    The small kernel helps to train the large one, of which it becomes a part
    when the network is folded. Norm, layer scale and pointwise convolutions
    fold as well.

    Source: `Scaling Up Your Kernels to 31x31
    <https://arxiv.org/abs/2203.06717>`_ (CVPR 2022), figure 2 and section 3.2,
    whose block has both pointwise convolutions; this is mmpretrain's
    ``RepLKBlock`` without its norm in front and its residual addition. It costs
    HWC (2 C + k^2 + k'^2) multiply-adds, and HWC (2 C + k^2) when folded.

    Args:
        channels (int): Number C of input and output channels.
        kernel_size (int): Odd side k of the kernel. Defaults to 7.
        dilation (int): Dilation of both kernels. Defaults to 1.
        small_kernel (int, optional): Odd side k' of the kernel beside it, which
            must be the smaller one; None for none. Defaults to 3.
        norm_cfg (dict): Config of the norm layers. Defaults to
            ``dict(type='BN')``.
        act_cfg (dict): Config of the activations. Defaults to
            ``dict(type='ReLU')``.

    Raises:
        ValueError: If a kernel size is even, a number is not positive, or the
            small kernel is not the smaller one.

    Examples:
        >>> import torch
        >>> from mmdmformer.mixers import DepthwiseConv
        >>> DepthwiseConv(64, kernel_size=13)(torch.rand(1, 64, 14, 14)).shape
        torch.Size([1, 64, 14, 14])
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int = 7,
        dilation: int = 1,
        small_kernel: int | None = 3,
        norm_cfg: dict = dict(type='BN'),
        act_cfg: dict = dict(type='ReLU'),
    ) -> None:
        super().__init__()
        check_odd('kernel_size', kernel_size)
        check_positive('dilation', dilation)
        if small_kernel is not None:
            check_odd('small_kernel', small_kernel)
            if small_kernel >= kernel_size:
                raise ValueError(
                    f'small_kernel={small_kernel} must be below kernel_size={kernel_size}, or None.'
                )
        self.expand = nn.Conv2d(channels, channels, 1, bias=False)
        self.expand_norm = build_norm_layer(norm_cfg, channels)[1]
        self.expand_act = build_activation_layer(act_cfg)
        self.large = _build_depthwise(channels, kernel_size, dilation, norm_cfg)
        self.small = None
        if small_kernel is not None:
            self.small = _build_depthwise(channels, small_kernel, dilation, norm_cfg)
        self.depthwise_act = build_activation_layer(act_cfg)
        self.reduce = nn.Conv2d(channels, channels, 1, bias=False)
        self.reduce_norm = build_norm_layer(norm_cfg, channels)[1]

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens.

        Args:
            x (Tensor): Input of shape (B, C, H, W).

        Returns:
            Tensor: Output of shape (B, C, H, W).
        """
        y = self.expand_act(self.expand_norm(self.expand(x)))
        depthwise = self.large(y)
        if self.small is not None:
            depthwise = depthwise + self.small(y)
        return self.reduce_norm(self.reduce(self.depthwise_act(depthwise)))

    def fold(self, norm: nn.Module, scale: Tensor) -> nn.Module:
        """Fold all norms, the small kernel and the layer scale into three convolutions.

        Args:
            norm (nn.Module): The batch norm before the mixer, of C channels.
            scale (Tensor): The layer scale after it, of shape (C, ).

        Returns:
            nn.Module: Computes ``x + scale * mixer(norm(x))`` in inference.

        Raises:
            ValueError: If a norm is no batch norm with running statistics.
        """
        expand = fold_after(self.expand, *as_affine(self.expand_norm))
        depthwise: Any
        small: Any
        (depthwise,) = fold_sequence(self.large)
        if self.small is not None:
            (small,) = fold_sequence(self.small)
            margin = (depthwise.kernel_size[0] - small.kernel_size[0]) // 2
            depthwise.weight.data += F.pad(small.weight.data, (margin,) * 4)
            depthwise.bias.data += small.bias.data
        reduce = fold_after(self.reduce, *as_affine(self.reduce_norm))
        return Residual(
            fold_before(*as_affine(norm), expand),
            self.expand_act,
            depthwise,
            self.depthwise_act,
            fold_after(reduce, scale),
        )


def _build_depthwise(channels: int, size: int, dilation: int, norm_cfg: dict) -> nn.Sequential:
    padding = dilation * (size // 2)
    return nn.Sequential(
        nn.Conv2d(
            channels,
            channels,
            size,
            padding=padding,
            dilation=dilation,
            groups=channels,
            bias=False,
        ),
        build_norm_layer(norm_cfg, channels)[1],
    )
