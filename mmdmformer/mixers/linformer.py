# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Attention to a fixed number of learned mixtures of tokens, as in Linformer."""

import torch
from torch import Tensor, nn

from ..layers.pooling import AdaptiveAveragePool
from ..registry import TOKEN_MIXERS
from .acmix_attention import TokenAttention
from .arguments import check_positive, count_heads
from .tokens import to_maps, to_tokens


@TOKEN_MIXERS.register_module()
class Linformer(nn.Module):
    r"""Multi-head attention whose keys and values are k learned mixtures of all tokens.

    .. math:: \mathrm{head}_i = \mathrm{softmax}(Q_i (E K_i)^T / \sqrt{d}) \, F V_i

    The paper's matrices E and F, of shape (k, HW) and shared by the heads, fix
    the number of tokens. Here the map is first pooled to a grid of k = s x s
    tokens, whatever its size, and E and F, of shape (k, k), mix these.

    Source: `Linformer: Self-Attention with Linear Complexity
    <https://arxiv.org/abs/2006.04768>`_, equation 7. It costs
    HWC (2 C + 2 k) multiply-adds, beside 2 k C (C + k) for keys and values and
    s HWC + k WC for the pooling: it is linear in the number of tokens.

    Args:
        channels (int): Number C of input and output channels.
        head_dim (int): Channels d of each head. Defaults to 32.
        grid_size (int): Side s of the grid. Defaults to 7, which makes 49
            keys.
        qkv_bias (bool): Whether queries, keys and values have a bias.
            Defaults to True.

    Raises:
        ValueError: If ``head_dim`` does not divide the channels, or the grid
            is empty.

    Examples:
        >>> import torch
        >>> from mmdmformer.mixers import Linformer
        >>> Linformer(64)(torch.rand(1, 64, 14, 14)).shape
        torch.Size([1, 64, 14, 14])
    """

    def __init__(
        self, channels: int, head_dim: int = 32, grid_size: int = 7, qkv_bias: bool = True
    ) -> None:
        super().__init__()
        check_positive('grid_size', grid_size)
        self.pool = AdaptiveAveragePool(grid_size)
        self.query = nn.Linear(channels, channels, bias=qkv_bias)
        self.key_value = nn.Linear(channels, 2 * channels, bias=qkv_bias)
        num_keys = grid_size**2
        # At first each mixture is about its own token of the grid, which the grid's order says.
        self.mix_keys, self.mix_values = (
            nn.Parameter(torch.eye(num_keys) + torch.randn(num_keys, num_keys) * 0.02)
            for _ in range(2)
        )
        self.attention = TokenAttention(channels, count_heads(channels, head_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens.

        Args:
            x (Tensor): Input of shape (B, C, H, W).

        Returns:
            Tensor: Output of shape (B, C, H, W).
        """
        # The mean of keys is the key of the mean, at less cost.
        keys, values = self.key_value(to_tokens(self.pool(x))).chunk(2, dim=-1)
        mixed = torch.cat((self.mix_keys @ keys, self.mix_values @ values), dim=-1)
        return to_maps(self.attention(self.query(to_tokens(x)), mixed), x)
