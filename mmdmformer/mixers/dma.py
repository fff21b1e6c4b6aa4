# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Dynamic Multi-level Attention, the token mixer of DMFormer."""

from collections.abc import Sequence
from typing import Any

import torch.nn as nn
from mmcv.cnn import build_activation_layer, build_norm_layer
from torch import Tensor

from ..layers.folding import FoldedDMA
from ..ops import sum_branches
from ..registry import TOKEN_MIXERS


@TOKEN_MIXERS.register_module()
class DMA(nn.Module):
    """Dynamic Multi-level Attention (called MCA in the paper's first version).

    A 1x1 convolution expands the channels; depthwise convolutions of several
    kernel sizes and dilations, in parallel, are summed; a 1x1 convolution
    reduces the channels again, and the input is added. A second 1x1
    convolution gives the values, which a per-channel gate, computed from the
    globally pooled input, weighs.

    Source: `DMFormer: Closing the Gap between CNN and Vision
    Transformers <https://arxiv.org/abs/2209.07738>`_, equations 1 to 3. It
    costs HWC (2 r C + r sum k^2 + C) multiply-adds, and 2 C^2 for the gate.

    Args:
        channels (int): Number of input and output channels.
        expand_ratio (int): Expansion ratio r of the depthwise part.
            Defaults to 4.
        kernel_sizes (Sequence[int]): Odd kernel size of each branch.
            Defaults to (3, 5, 7).
        dilations (Sequence[int]): Dilation of each branch.
            Defaults to (1, 2, 3).
        gate (bool): Whether to weigh the output by the gate. Defaults to True.
        residual (bool): Whether to add the input after the reduction.
            Defaults to True.
        out_norm_act (bool): Whether normalization and activation follow the
            last 1x1 convolution. The paper's text and numbers leave it open.
            Defaults to True.
        norm_cfg (dict): Config of the norm layers. Defaults to
            ``dict(type='BN')``.
        act_cfg (dict): Config of the activations. Defaults to
            ``dict(type='ReLU', inplace=True)``.

    Raises:
        ValueError: If ``kernel_sizes`` and ``dilations`` differ in length
            or are empty, a kernel size is even, or a number is not positive.

    Examples:
        >>> import torch
        >>> from mmdmformer.mixers import DMA
        >>> mixer = DMA(64)
        >>> mixer(torch.rand(1, 64, 14, 14)).shape
        torch.Size([1, 64, 14, 14])
    """

    def __init__(
        self,
        channels: int,
        expand_ratio: int = 4,
        kernel_sizes: Sequence[int] = (3, 5, 7),
        dilations: Sequence[int] = (1, 2, 3),
        gate: bool = True,
        residual: bool = True,
        out_norm_act: bool = True,
        norm_cfg: dict = dict(type='BN'),
        act_cfg: dict = dict(type='ReLU', inplace=True),
    ) -> None:
        super().__init__()
        _check_branches(kernel_sizes, dilations)
        if expand_ratio < 1:
            raise ValueError(f'expand_ratio={expand_ratio} must be a positive integer.')
        hidden = channels * expand_ratio
        self.residual = residual

        self.expand = nn.Conv2d(channels, hidden, 1)
        self.expand_norm = build_norm_layer(norm_cfg, hidden)[1]
        self.expand_act = build_activation_layer(act_cfg)
        self.branches: Any = nn.ModuleList(
            nn.Conv2d(hidden, hidden, k, padding=d * (k // 2), dilation=d, groups=hidden)
            for k, d in zip(kernel_sizes, dilations, strict=True)
        )
        self.branch_norm = build_norm_layer(norm_cfg, hidden)[1]
        self.branch_act = build_activation_layer(act_cfg)
        self.reduce = nn.Conv2d(hidden, channels, 1, bias=False)
        self.reduce_norm = build_norm_layer(norm_cfg, channels)[1]
        self.value = nn.Conv2d(channels, channels, 1)
        self.value_norm_act = (
            nn.Sequential(build_norm_layer(norm_cfg, channels)[1], build_activation_layer(act_cfg))
            if out_norm_act
            else nn.Identity()
        )
        self.gate = ChannelGate(channels) if gate else None

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens.

        Args:
            x (Tensor): Input of shape (B, C, H, W).

        Returns:
            Tensor: Output of shape (B, C, H, W).
        """
        y = self.expand_act(self.expand_norm(self.expand(x)))
        y = self.branch_act(self.branch_norm(sum_branches(y, self.branches)))
        y = self.reduce_norm(self.reduce(y))
        if self.residual:
            y = x + y
        y = self.value_norm_act(self.value(y))
        if self.gate is not None:
            y = self.gate(x) * y
        return y

    def fold(self, norm: nn.Module, scale: Tensor) -> FoldedDMA:
        """Fold the norms of the residual branch ``x + scale * mixer(norm(x))``.

        Args:
            norm (nn.Module): The batch norm before the mixer.
            scale (Tensor): The layer scale after it, of shape (C, ).

        Returns:
            FoldedDMA: The whole branch in inference.

        Raises:
            ValueError: If a norm is no batch norm with running statistics.
        """
        return FoldedDMA(norm, self, scale)


class ChannelGate(nn.Module):
    """Gate of each channel in (0, 1), from the globally averaged input.

    Unlike squeeze-and-excitation, the hidden layer keeps all channels.

    Args:
        channels (int): Number of channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fcs = nn.Sequential(
            nn.Linear(channels, channels),
            nn.ReLU(inplace=True),
            nn.Linear(channels, channels),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Compute the gates, of shape (B, C, 1, 1), of ``x``, of shape (B, C, H, W)."""
        return self.fcs(x.mean(dim=(2, 3)))[:, :, None, None]


def _check_branches(kernel_sizes: Sequence[int], dilations: Sequence[int]) -> None:
    if len(kernel_sizes) != len(dilations) or not kernel_sizes:
        raise ValueError(
            f'kernel_sizes={tuple(kernel_sizes)} and dilations={tuple(dilations)} must hold one '
            'number for each branch: give as many of the one as of the other, at least one.'
        )
    if any(k < 1 or k % 2 == 0 for k in kernel_sizes):
        raise ValueError(
            f'kernel_sizes={tuple(kernel_sizes)} must be odd and positive, such as (3, 5, 7).'
        )
    if any(d < 1 for d in dilations):
        raise ValueError(f'dilations={tuple(dilations)} must be positive, such as (1, 2, 3).')
