# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Dynamic convolution: a kernel for each image, mixed from a bank of learned ones."""

import math

import torch
from torch import Tensor, nn

from ..ops.dynamic_dwconv import dwconv_by_image
from ..registry import TOKEN_MIXERS
from .arguments import check_odd, check_positive
from .tokens import keep_format


@TOKEN_MIXERS.register_module()
class DynamicConv(nn.Module):
    r"""Depthwise convolution with a mixture of K learned kernels and biases, one for each image.

    .. math:: y = \Bigl(\sum_{k=1}^{K} \pi_k W_k\Bigr) * x + \sum_{k=1}^{K} \pi_k b_k, \quad
        \pi = \mathrm{softmax}(W'' \, \mathrm{ReLU}(W' \, \mathrm{GAP}(x)))

    The bank is static, and its selection is dynamic and soft. The paper divides
    the softmax's input by a temperature in the first epochs, so that all kernels
    learn; here the layer before it has small initial weights.

    Source: `Dynamic Convolution: Attention over Convolution Kernels
    <https://arxiv.org/abs/1912.03458>`_ (CVPR 2020), equation 2, in its
    depthwise form of section 4. It costs HWC k^2 multiply-adds, and
    C^2 / r + K C / r + K C (k^2 + 1) for each image.

    Args:
        channels (int): Number C of input and output channels.
        kernel_size (int): Odd side k of the kernels. Defaults to 3.
        num_kernels (int): Number K of kernels in the bank. Defaults to 4.
        reduction (int): How many times fewer channels the hidden layer of the
            selection has. Defaults to 4.

    Raises:
        ValueError: If ``kernel_size`` is even, or a number is not positive.

    Examples:
        >>> import torch
        >>> from mmdmformer.mixers import DynamicConv
        >>> DynamicConv(64)(torch.rand(1, 64, 14, 14)).shape
        torch.Size([1, 64, 14, 14])
    """

    def __init__(
        self, channels: int, kernel_size: int = 3, num_kernels: int = 4, reduction: int = 4
    ) -> None:
        super().__init__()
        check_odd('kernel_size', kernel_size)
        check_positive('num_kernels', num_kernels)
        check_positive('reduction', reduction)
        bank = torch.empty(num_kernels, channels, kernel_size, kernel_size)
        self.bank = nn.Parameter(nn.init.normal_(bank, std=math.sqrt(2) / kernel_size))
        self.kernel_size = kernel_size
        self.bias = nn.Parameter(torch.zeros(num_kernels, channels))
        hidden = max(channels // reduction, 1)
        reduce, score = nn.Linear(channels, hidden), nn.Linear(hidden, num_kernels)
        nn.init.normal_(score.weight, std=0.02)
        self.select = nn.Sequential(reduce, nn.ReLU(), score, nn.Softmax(dim=-1))

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens.

        Args:
            x (Tensor): Input of shape (B, C, H, W).

        Returns:
            Tensor: Output of shape (B, C, H, W).
        """
        shares = self.select(x.mean(dim=(2, 3)))
        y = dwconv_by_image(x, self.mix_kernels(shares), self.kernel_size)
        return keep_format(y + (shares @ self.bias)[..., None, None], x)

    def mix_kernels(self, shares: Tensor) -> Tensor:
        """Mix the bank to a kernel for each image.

        Args:
            shares (Tensor): Shares of the kernels, of shape (B, K).

        Returns:
            Tensor: Of shape (B, C, k, k).
        """
        return (shares @ self.bank.flatten(1)).unflatten(1, tuple(self.bank.shape[1:]))
