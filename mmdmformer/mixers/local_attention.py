# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Self-attention inside windows, as in Swin."""

from torch import Tensor, nn

from ..registry import TOKEN_MIXERS
from .arguments import check_positive, count_heads
from .dynamic_attention import DynamicTokenAttention
from .windows import mix_in_windows


@TOKEN_MIXERS.register_module()
class LocalAttention(nn.Module):
    r"""Multi-head attention among the positions of a window, with relative positions.

    .. math:: \mathrm{head}_i = \mathrm{softmax}(Q_i K_i^T / \sqrt{d} + B_i) \, V_i

    where B_i, of shape (M^2, M^2), holds learned values of the relative
    positions in a window of M x M. A map of any size is cut into windows; those
    at its borders may be smaller, and each position sees the real positions of
    its window alone. Unlike Swin, the map is never rolled: a shift moves the
    first border between windows, which gives what rolling and masking gives,
    and a map of one window is cut as well.

    Source: `Swin Transformer <https://arxiv.org/abs/2103.14030>`_, equation 4;
    this is :class:`~mmdmformer.mixers.DynamicTokenAttention` with a softmax. It
    costs HWC (4 C + 2 M^2) multiply-adds, where H and W count the padding.

    Args:
        channels (int): Number C of input and output channels.
        head_dim (int): Channels d of each head. Defaults to 32.
        window (int): Side M of the windows. Defaults to 7.
        shift (int): Row and column in which the second window begins, below M;
            0 for windows that begin in the map's corner. Swin's shifted windows
            have M // 2. Defaults to 0.
        qkv_bias (bool): Whether queries, keys and values have a bias.
            Defaults to True.

    Raises:
        ValueError: If ``head_dim`` does not divide the channels, the window
            has no side, or the shift is no position in it.

    Examples:
        >>> import torch
        >>> from mmdmformer.mixers import LocalAttention
        >>> LocalAttention(64, shift=4)(torch.rand(1, 64, 14, 19)).shape
        torch.Size([1, 64, 14, 19])
    """

    def __init__(
        self,
        channels: int,
        head_dim: int = 32,
        window: int = 7,
        shift: int = 0,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        check_positive('window', window)
        if not 0 <= shift < window:
            raise ValueError(
                f'shift={shift} must be at least 0 and below window={window}, such as '
                f'{window // 2}.'
            )
        self.window, self.shift = window, shift
        num_heads = count_heads(channels, head_dim)
        self.attention = DynamicTokenAttention(
            channels, num_heads, (window, window), qkv_bias=qkv_bias
        )

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens.

        Args:
            x (Tensor): Input of shape (B, C, H, W).

        Returns:
            Tensor: Output of shape (B, C, H, W).
        """
        return mix_in_windows(x, self.attention, self.window, self.shift)
