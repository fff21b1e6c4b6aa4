# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Projections and attention paths of ACmix."""

from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from torch import Tensor

from ..ops.local_attention import aggregate, attend, cut_windows, window_attention
from .acmix_convolution import ConvolutionPath
from .arguments import check_choice, check_heads, check_odd

Maps = tuple[Tensor, ...]


class QKVProjection(nn.Module):
    """Queries, keys and values by 1x1 convolutions with biases, which both paths take.

    Args:
        in_channels (int): Input channels.
        widths (Sequence[int]): Channels of queries, keys and values.
    """

    def __init__(self, in_channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Conv2d(in_channels, n, 1) for n in widths)

    def forward(self, x: Tensor) -> tuple[Maps, Maps]:
        """Project ``x`` of shape (B, in_channels, H, W)."""
        qkv = self.query(x), self.key(x), self.value(x)
        return qkv, qkv


class WindowAttention(nn.Module):
    """Attention to the window around each position, with an encoding of relative positions.

    The logit of position i and neighbor j is q_i (k_j + p_i - p_j) / sqrt(d),
    where p is a 1x1 convolution of the coordinates, from -1 to 1 (equation 21
    of the paper). q_i p_i is the same for all neighbors and cancels in the
    softmax, so that k - p serves as keys. For the same reason the convolution's
    bias, which the released code has, changes nothing.

    Args:
        channels (int): Number of channels.
        num_heads (int): Number of heads, which share the encoding.
            Defaults to 4.
        window (int): Odd side of the window. Defaults to 7.
        stride (int): Stride of the output. Defaults to 1.

    Raises:
        ValueError: If the heads do not divide the channels, or the window has
            no center.

    Examples:
        >>> q, k, v = torch.rand(3, 1, 16, 9, 5)
        >>> WindowAttention(16, stride=2)(q, k, v).shape
        torch.Size([1, 16, 5, 3])
    """

    def __init__(self, channels: int, num_heads: int = 4, window: int = 7, stride: int = 1) -> None:
        super().__init__()
        check_heads(channels, num_heads)
        check_odd('window', window)
        self.num_heads, self.window, self.stride = num_heads, window, stride
        self.position = nn.Conv2d(2, channels // num_heads, 1)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend.

        Args:
            q (Tensor): Queries of shape (B, C, H, W), with head-major channels.
            k (Tensor): Keys of the same shape.
            v (Tensor): Values of the same shape.

        Returns:
            Tensor: Output of shape (B, C, ceil(H / stride), ceil(W / stride)).
        """
        y, x = (torch.linspace(-1, 1, n, dtype=k.dtype, device=k.device) for n in k.shape[2:])
        coordinates = torch.stack(torch.meshgrid(x, y, indexing='xy'))
        k = k - self.position(coordinates[None]).repeat(1, self.num_heads, 1, 1)
        q = q[:, :, :: self.stride, :: self.stride]
        return window_attention(q, k, v, self.num_heads, self.window, self.stride)


class PatchwiseAttention(nn.Module):
    """Patch-wise self-attention of SAN: a small network turns a window into its weights.

    Source: `Exploring Self-attention for Image Recognition
    <https://arxiv.org/abs/2004.13621>`_, equation 4. There is no softmax.

    Args:
        relation_channels (int): Channels of queries and keys.
        channels (int): Channels of values.
        window (int): Odd side of the window.
        share (int): Number of channels that share weights. Defaults to 8.
        norm_cfg (dict): Config of the norm layers. Defaults to
            ``dict(type='BN')``.

    Raises:
        ValueError: If ``share`` does not divide the channels, or the window has
            no center.

    Examples:
        >>> q, k = torch.rand(2, 1, 4, 9, 5)
        >>> PatchwiseAttention(4, 16, window=3)(q, k, torch.rand(1, 16, 9, 5)).shape
        torch.Size([1, 16, 9, 5])
    """

    def __init__(
        self,
        relation_channels: int,
        channels: int,
        window: int,
        share: int = 8,
        norm_cfg: dict = dict(type='BN'),
    ) -> None:
        super().__init__()
        check_odd('window', window)
        if channels % share:
            raise ValueError(
                f'{channels} channels cannot share weights in groups of {share}: give a multiple.'
            )
        self.window, self.groups = window, channels // share
        in_channels = relation_channels * (window**2 + 1)
        self.weights = nn.Sequential(
            build_norm_layer(norm_cfg, in_channels)[1],
            nn.ReLU(inplace=True),
            nn.Conv2d(in_channels, self.groups, 1, bias=False),
            build_norm_layer(norm_cfg, self.groups)[1],
            nn.ReLU(inplace=True),
            nn.Conv2d(self.groups, self.groups * window**2, 1),
        )

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend.

        Args:
            q (Tensor): Queries of shape (B, relation_channels, H, W).
            k (Tensor): Keys of the same shape.
            v (Tensor): Values of shape (B, channels, H, W).

        Returns:
            Tensor: Output of shape (B, channels, H, W).
        """
        # The keys are few (a sixteenth of the channels), so that their windows may be copied out.
        keys = cut_windows(k, self.window).permute(0, 1, 4, 5, 2, 3).flatten(1, 3)
        weights = self.weights(torch.cat((q, keys), 1))
        return aggregate(weights.unflatten(1, (self.groups, -1)), v, self.window)


class ReducedProjection(nn.Module):
    """Queries of all tokens, and keys and values of a grid of reduced resolution, as in PVT.

    The convolution path needs keys and values everywhere; the paper does not
    say how they get there.

    Args:
        channels (int): Number of channels.
        sr_ratio (int): How many times smaller the reduced grid is.
        kv (str): ``'upsample'`` enlarges keys and values (by nearest
            neighbors); ``'shared'`` applies their projection to the tokens
            before reduction too. Defaults to 'upsample'.
        norm_cfg (dict): Config of the norm after the reduction. Defaults to
            ``dict(type='LN')``.

    Raises:
        ValueError: If ``kv`` is unknown.
    """

    def __init__(
        self,
        channels: int,
        sr_ratio: int,
        kv: str = 'upsample',
        norm_cfg: dict = dict(type='LN'),
    ) -> None:
        super().__init__()
        check_choice('kv', kv, ('upsample', 'shared'))
        self.kv = kv
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.reduce = self.norm = None
        if sr_ratio > 1:
            self.reduce = nn.Conv2d(channels, channels, sr_ratio, sr_ratio)
            self.norm = build_norm_layer(norm_cfg, channels)[1]

    def forward(self, x: Tensor, hw_shape: Sequence[int]) -> tuple[Maps, Maps]:
        """Project tokens.

        Args:
            x (Tensor): Tokens of shape (B, N, C): those of the grid, behind
                class tokens, if any.
            hw_shape (Sequence[int]): Height and width of the grid.

        Returns:
            tuple: Tokens of queries, and of keys and values; maps of both on
            the grid, of shapes (B, C, H, W) and (B, 2C, H, W).
        """
        query = self.query(x)
        if self.reduce is None or self.norm is None:
            key_value = self.key_value(x)
            key_value_map = _to_map(key_value, hw_shape)
        else:
            reduced = self.reduce(_to_map(x, hw_shape))
            key_value = self.key_value(self.norm(reduced.flatten(2).transpose(1, 2)))
            if self.kv == 'shared':
                key_value_map = _to_map(self.key_value(x), hw_shape)
            else:
                key_value_map = _to_map(key_value, reduced.shape[2:])
                key_value_map = F.interpolate(key_value_map, size=tuple(hw_shape))
        return (query, key_value), (_to_map(query, hw_shape), key_value_map)


class TokenAttention(nn.Module):
    """Multi-head attention of tokens to tokens, with the output projection.

    Args:
        channels (int): Number of channels.
        num_heads (int): Number of heads.

    Raises:
        ValueError: If the heads do not divide the channels.
    """

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        check_heads(channels, num_heads)
        self.num_heads = num_heads
        self.proj = nn.Linear(channels, channels)

    def forward(self, query: Tensor, key_value: Tensor, *_: object) -> Tensor:
        """Attend.

        Args:
            query (Tensor): Queries of shape (B, N, C).
            key_value (Tensor): Keys, then values, of shape (B, M, 2C).

        Returns:
            Tensor: Output of shape (B, N, C).
        """
        q, k, v = (
            x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for x in (query, *key_value.chunk(2, 2))
        )
        return self.proj(attend(q, k, v).transpose(1, 2).flatten(2))


class TokenConvolutionPath(ConvolutionPath):
    """The convolution path with tokens as output; class tokens get nothing of it.

    Args:
        num_extra_tokens (int): Class tokens in front of the grid's.
        args: Arguments of :class:`ConvolutionPath`.
        kwargs: Arguments of :class:`ConvolutionPath`.
    """

    def __init__(self, num_extra_tokens: int, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.num_extra_tokens = num_extra_tokens

    def forward(self, *maps: Tensor) -> Tensor:
        """Compute tokens, of shape (B, N, C), from maps, as :class:`ConvolutionPath` does."""
        tokens = super().forward(*maps).flatten(2).transpose(1, 2)
        return F.pad(tokens, (0, 0, self.num_extra_tokens, 0))


class QKVLinear(nn.Module):
    """Queries, keys and values by one linear layer on maps with the channels last, as in Swin.

    Args:
        channels (int): Number of channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(channels, 3 * channels)

    def forward(self, x: Tensor, *_: object) -> tuple[Maps, Maps]:
        """Project ``x`` of shape (B, H, W, C); the convolution path gets channels first."""
        qkv = self.qkv(x)
        return (qkv,), (qkv.permute(0, 3, 1, 2),)


class ShiftedWindowAttention(nn.Module):
    """Attention inside the windows of a map that may be shifted, as in Swin.

    Args:
        channels (int): Number of channels.
        num_heads (int): Number of heads.
        window (int): Side of the windows. Defaults to 7.

    Raises:
        ValueError: If the heads do not divide the channels.

    Examples:
        >>> attention = ShiftedWindowAttention(8, num_heads=2, window=3)
        >>> attention(torch.rand(1, 6, 9, 24), 1).shape
        torch.Size([1, 8, 6, 9])
    """

    def __init__(self, channels: int, num_heads: int, window: int = 7) -> None:
        super().__init__()
        check_heads(channels, num_heads)
        self.num_heads, self.window = num_heads, window
        self.proj = nn.Linear(channels, channels)
        table = torch.empty((2 * window - 1) ** 2, num_heads)
        self.relative_position_bias_table = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))

    def forward(self, qkv: Tensor, shift: int) -> Tensor:
        """Attend.

        Args:
            qkv (Tensor): Queries, keys and values, of shape (B, H, W, 3C),
                with H and W that are multiples of the window's.
            shift (int): By how many positions the map was rolled to the top
                left; positions that were no neighbors before do not see each
                other.

        Returns:
            Tensor: Output of shape (B, C, H, W).
        """
        height, width, channels = *qkv.shape[1:3], self.proj.in_features
        q, k, v = (
            self._cut_windows(qkv).unflatten(3, (3, self.num_heads, -1)).permute(3, 0, 1, 4, 2, 5)
        )  # each (B, windows, heads, window^2, d)
        logits = q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)
        logits = logits + self._bias()
        if shift > 0:
            logits = logits + self._mask(height, width, shift, logits)[:, None]
        out = (
            (logits.softmax(-1) @ v)
            .transpose(2, 3)
            .reshape(
                -1, height // self.window, width // self.window, self.window, self.window, channels
            )
        )
        out = out.transpose(2, 3).reshape(-1, height, width, channels)
        return self.proj(out).permute(0, 3, 1, 2)

    def _cut_windows(self, x: Tensor) -> Tensor:
        """From (B, H, W, C) to (B, windows, window^2, C)."""
        x = x.unflatten(2, (-1, self.window)).unflatten(1, (-1, self.window))
        return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)

    def _bias(self) -> Tensor:
        """The table's entries for the relative positions in a window, (heads, L, L)."""
        place = torch.arange(self.window, device=self.relative_position_bias_table.device)
        away = place[:, None] - place + self.window - 1  # in one direction, from 0
        index = away[:, None, :, None] * (2 * self.window - 1) + away[None, :, None, :]
        index = index.flatten(2).flatten(0, 1)
        return self.relative_position_bias_table[index].permute(2, 0, 1)

    def _mask(self, height: int, width: int, shift: int, like: Tensor) -> Tensor:
        """-100 where positions of a window come from different sides, (windows, L, L)."""
        row, column = (
            (i >= side - self.window).int() + (i >= side - shift).int()
            for side in (height, width)
            for i in [torch.arange(side, device=like.device)]
        )
        region = self._cut_windows((3 * row[:, None] + column)[None, ..., None])[0, ..., 0]
        apart = region[:, :, None] != region[:, None]
        return torch.zeros_like(apart, dtype=like.dtype).masked_fill(apart, -100)


def _to_map(tokens: Tensor, hw_shape: Sequence[int]) -> Tensor:
    """From (B, N, C), the last H W of which are a grid's, to (B, C, H, W)."""
    height, width = hw_shape
    return tokens[:, -height * width :].transpose(1, 2).unflatten(2, (height, width))
