# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Dynamic Multi-level Attention, the token mixer of DMFormer."""

import copy
from collections.abc import Sequence

import torch
import torch.nn as nn
from mmcv.cnn import build_activation_layer, build_norm_layer
from torch import Tensor

from ..layers.folding import as_affine, compose, fold_after, fold_before
from ..ops import conv2d, multi_dilated_dwconv
from ..registry import TOKEN_MIXERS


@TOKEN_MIXERS.register_module()
class DMA(nn.Module):
    """Dynamic Multi-level Attention (called MCA in the paper's first version).

    A 1x1 convolution expands the channels; depth-wise convolutions of several
    kernel sizes and dilations, in parallel, are summed; a 1x1 convolution
    reduces the channels again, and the input is added. A second 1x1
    convolution gives the values, which a per-channel gate, computed from the
    globally pooled input, weighs.

    Source: `DMFormer: Closing the Gap between CNN and Vision
    Transformers <https://arxiv.org/abs/2209.07738>`_.

    Args:
        channels (int): Number of input and output channels.
        expand_ratio (int): Expansion ratio r of the depth-wise part.
            Defaults to 4.
        kernel_sizes (Sequence[int]): Odd kernel size of each branch.
            Defaults to (3, 5, 7).
        dilations (Sequence[int]): Dilation of each branch.
            Defaults to (1, 2, 3).
        gate (bool): Whether to weigh the output by the gate. Defaults to True.
        residual (bool): Whether to add the input after the reduction.
            Defaults to True.
        out_norm_act (bool): Whether normalisation and activation follow the
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
        self.dilations = tuple(dilations)
        self.residual = residual

        self.expand = nn.Conv2d(channels, hidden, 1)
        self.expand_norm = build_norm_layer(norm_cfg, hidden)[1]
        self.branches = nn.ModuleList(
            nn.Conv2d(hidden, hidden, k, padding=d * (k // 2), dilation=d, groups=hidden)
            for k, d in zip(kernel_sizes, dilations, strict=True)
        )
        self.branch_norm = build_norm_layer(norm_cfg, hidden)[1]
        self.reduce = nn.Conv2d(hidden, channels, 1, bias=False)
        self.reduce_norm = build_norm_layer(norm_cfg, channels)[1]
        self.value = nn.Conv2d(channels, channels, 1)
        self.act = build_activation_layer(act_cfg)
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
        y = self.act(self.expand_norm(self.expand(x)))
        y = self.act(self.branch_norm(_sum_branches(y, self.branches, self.dilations)))
        y = self.reduce_norm(self.reduce(y))
        if self.residual:
            y = x + y
        y = self.value_norm_act(self.value(y))
        if self.gate is not None:
            y = self.gate(x) * y
        return y


class FoldedDMA(nn.Module):
    """A token-mixing residual branch in inference, without norms.

    It computes ``x + scale * mixer(norm(x))``. Batch norms and layer scale are
    folded into the layers beside them; the reduction and the last 1x1
    convolution become one, and a second one takes the input that the residual
    addition passes on.

    Args:
        norm (nn.Module): The batch norm before the mixer.
        mixer (DMA): The mixer.
        scale (Tensor): The layer scale after it, of shape (C, ).

    Raises:
        ValueError: If a norm is no batch norm with running statistics.

    Examples:
        >>> norm, mixer, scale = nn.BatchNorm2d(8).eval(), DMA(8).eval(), torch.rand(8)
        >>> x = torch.rand(1, 8, 9, 9)
        >>> expected = x + scale[:, None, None] * mixer(norm(x))
        >>> torch.allclose(FoldedDMA(norm, mixer, scale)(x), expected, atol=1e-5)
        True
    """

    def __init__(self, norm: nn.Module, mixer: DMA, scale: Tensor) -> None:
        super().__init__()
        before = as_affine(norm)
        expand = fold_after(mixer.expand, *as_affine(mixer.expand_norm))
        self.expand = fold_before(*before, expand)

        branch_scale, branch_shift = as_affine(mixer.branch_norm)
        self.branches = nn.ModuleList(fold_after(b, branch_scale) for b in mixer.branches)
        self.branches[0].bias.data += branch_shift  # once for the sum
        self.dilations = mixer.dilations

        value, self.out_act = copy.deepcopy(mixer.value), nn.Identity()
        if isinstance(mixer.value_norm_act, nn.Sequential):
            value_norm, self.out_act = mixer.value_norm_act
            value = fold_after(value, *as_affine(value_norm))
        reduce = fold_after(mixer.reduce, *as_affine(mixer.reduce_norm))
        self.value = compose(reduce, value)
        self.skip = None
        if mixer.residual:
            value.bias = None  # the other convolution has it
            self.skip = fold_before(*before, value)
        self.act = mixer.act

        self.gate = copy.deepcopy(mixer.gate)
        if self.gate is not None:
            self.gate.fcs[0] = fold_before(*before, self.gate.fcs[0])
        self.scale = nn.Parameter(scale.detach()[:, None, None].clone())

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` of shape (B, C, H, W) to the same shape."""
        y = conv2d(x, self.expand, self.act)
        y = _sum_branches(y, self.branches, self.dilations, self.act)
        if self.skip is None:
            y = conv2d(y, self.value, self.out_act)
        else:
            y = conv2d(x, self.skip, self.out_act, add=conv2d(y, self.value))
        scale = self.scale if self.gate is None else self.scale * self.gate(x)
        return torch.addcmul(x, scale, y)


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


def _sum_branches(
    x: Tensor,
    branches: Sequence[nn.Conv2d],
    dilations: Sequence[int],
    act: nn.Module | None = None,
) -> Tensor:
    weights = [branch.weight for branch in branches]
    biases = [branch.bias for branch in branches]
    relu = isinstance(act, nn.ReLU)
    y = multi_dilated_dwconv(x, weights, biases, dilations, relu)
    return y if act is None or relu else act(y)


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
