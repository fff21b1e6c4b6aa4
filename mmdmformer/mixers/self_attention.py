# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Global self-attention, as in plain vision transformers."""

from torch import Tensor, nn

from ..registry import TOKEN_MIXERS
from .acmix_attention import TokenAttention
from .arguments import count_heads
from .tokens import to_maps, to_tokens


@TOKEN_MIXERS.register_module()
class SelfAttention(nn.Module):
    r"""Multi-head attention of each position to all positions.

    .. math:: \mathrm{head}_i = \mathrm{softmax}(Q_i K_i^T / \sqrt{d}) \, V_i, \quad
        y = W_o \, \mathrm{concat}(\mathrm{head}_1, ..., \mathrm{head}_h)

    It has no encoding of positions: what the network knows of them comes from
    its convolutions.

    Source: `Attention Is All You Need <https://arxiv.org/abs/1706.03762>`_,
    equation 1, as the token mixer that MetaFormer (`arXiv 2111.11418
    <https://arxiv.org/abs/2111.11418>`_) puts into the last stages. It costs
    HWC (4 C + 2 HW) multiply-adds: in large maps it is the costliest of all.

    Args:
        channels (int): Number C of input and output channels.
        head_dim (int): Channels d of each head. Defaults to 32.
        qkv_bias (bool): Whether queries, keys and values have a bias.
            Defaults to True.

    Raises:
        ValueError: If ``head_dim`` does not divide the channels.

    Examples:
        >>> import torch
        >>> from mmdmformer.mixers import SelfAttention
        >>> SelfAttention(64)(torch.rand(1, 64, 14, 14)).shape
        torch.Size([1, 64, 14, 14])
    """

    def __init__(self, channels: int, head_dim: int = 32, qkv_bias: bool = True) -> None:
        super().__init__()
        self.qkv = nn.Linear(channels, 3 * channels, bias=qkv_bias)
        self.attention = TokenAttention(channels, count_heads(channels, head_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens.

        Args:
            x (Tensor): Input of shape (B, C, H, W).

        Returns:
            Tensor: Output of shape (B, C, H, W).
        """
        channels = x.shape[1]
        query, key_value = self.qkv(to_tokens(x)).split([channels, 2 * channels], dim=-1)
        return to_maps(self.attention(query, key_value), x)
