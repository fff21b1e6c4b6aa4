# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""ACmix: convolution and self-attention on shared projections."""

from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from ..registry import TOKEN_MIXERS
from .acmix_attention import QKVProjection, WindowAttention
from .acmix_convolution import ConvolutionPath
from .arguments import check_choice, count_heads
from .tokens import keep_format

RATES = (
    'learned',
    'attention',
    'convolution',
    'fixed',
    'learned_alpha',
    'learned_beta',
    'complementary',
)


class ACmixOperator(nn.Module):
    r"""Attention and convolution that share their 1x1 projections.

    A PyTorch implementation of the operator of `On the Integration of
    Self-Attention and Convolution <https://arxiv.org/abs/2111.14556>`_ (CVPR
    2022):

    .. math:: y = \alpha \, \mathrm{att}(q, k, v) + \beta \, \mathrm{conv}(q, k, v)

    What differs between the networks that it is put into is given as modules.

    Args:
        projection (nn.Module): Maps the input to two tuples: the arguments of
            the attention path, and those of the convolution path.
        attention (nn.Module): The attention path.
        convolution (nn.Module): The convolution path; usually
            :class:`ConvolutionPath`.
        rates (str): How the paths are weighed; see :class:`PathRates`, which
            also says which path does not exist. Defaults to 'learned'.

    Raises:
        ValueError: If ``rates`` is unknown.

    Examples:
        >>> from mmdmformer.mixers.acmix_attention import QKVProjection, WindowAttention
        >>> mixer = ACmixOperator(
        ...     QKVProjection(32, (64, 64, 64)),
        ...     WindowAttention(64, num_heads=4, window=7, stride=2),
        ...     ConvolutionPath(num_maps=12, head_dim=16, channels=64, stride=2))
        >>> mixer(torch.rand(1, 32, 15, 20)).shape
        torch.Size([1, 64, 8, 10])
    """

    def __init__(
        self,
        projection: nn.Module,
        attention: nn.Module,
        convolution: nn.Module,
        rates: str = 'learned',
    ) -> None:
        super().__init__()
        self.projection = projection
        self.rates = PathRates(rates)
        self.attention = attention if rates != 'convolution' else None
        self.convolution = convolution if rates != 'attention' else None

    def forward(self, x: Tensor, *context: object) -> Tensor:
        """Mix tokens.

        Args:
            x (Tensor): Input, in the shape that the projection takes.
            context: Further arguments of the projection and the attention
                path.

        Returns:
            Tensor: Output, in the shape that the paths give.
        """
        attention_inputs, maps = self.projection(x, *context)
        attention = convolution = None
        if self.attention is not None:
            attention = self.attention(*attention_inputs, *context)
        if self.convolution is not None:
            convolution = self.convolution(*maps)
        return self.rates(attention, convolution)


class PathRates(nn.Module):
    """The weighted sum of the two paths (equation 13 and table 6 of the paper).

    Args:
        rates (str): How the paths are weighed:

            - ``'learned'``: by two parameters alpha and beta, 0.5 at first;
            - ``'attention'``: the attention path alone exists;
            - ``'convolution'``: the convolution path alone exists;
            - ``'fixed'``: both by 1;
            - ``'learned_alpha'``: attention by a parameter, convolution by 1;
            - ``'learned_beta'``: attention by 1, convolution by a parameter;
            - ``'complementary'``: by a parameter alpha and by 1 - alpha.

    Raises:
        ValueError: If ``rates`` is unknown.

    Examples:
        >>> rates = PathRates('complementary')
        >>> nn.init.constant_(rates.alpha, 0.25)
        Parameter containing:
        tensor([0.2500], requires_grad=True)
        >>> rates(torch.tensor([8.0]), torch.tensor([4.0]))
        tensor([5.], grad_fn=<AddBackward0>)
    """

    def __init__(self, rates: str = 'learned') -> None:
        super().__init__()
        check_choice('rates', rates, RATES)
        self.complementary = rates == 'complementary'
        has_alpha = rates in ('learned', 'learned_alpha', 'complementary')
        has_beta = rates in ('learned', 'learned_beta')
        self.alpha = nn.Parameter(torch.full((1,), 0.5)) if has_alpha else None
        self.beta = nn.Parameter(torch.full((1,), 0.5)) if has_beta else None

    def forward(self, attention: Tensor | None, convolution: Any) -> Tensor:
        """Add the paths' outputs, of one shape; None is a path that does not exist."""
        if attention is None:
            return convolution
        if convolution is None:
            return attention
        beta = self.beta if self.alpha is None or not self.complementary else 1 - self.alpha
        attention = attention if self.alpha is None else self.alpha * attention
        return attention + (convolution if beta is None else beta * convolution)


@TOKEN_MIXERS.register_module()
class ACmix(ACmixOperator):
    r"""Attention and convolution on shared projections, as in ResNet-ACmix.

    .. math:: y = \alpha \, \mathrm{att}(q, k, v) + \beta \, \mathrm{conv}(q, k, v), \quad
        q, k, v = W_q x, W_k x, W_v x

    The attention path sees the window around each position, with an encoding
    of relative positions that is computed from the map's own coordinates; the
    convolution path mixes the 3 N maps of the N heads, shifts and sums them.

    Source: `On the Integration of Self-Attention and Convolution
    <https://arxiv.org/abs/2111.14556>`_ (CVPR 2022), equations 13 and 21, with
    the released code's form of both paths. With a window of side M and a
    convolution of side k, it costs HWC (3 C + 2 M^2 + 3 k^2 + k^4)
    multiply-adds, and 2 HWd for the positions.

    Args:
        channels (int): Number C of input and output channels.
        head_dim (int): Channels d of each head. Defaults to 32.
        window (int): Odd side M of the attention's window. Defaults to 7.
        conv_kernel (int): Odd kernel size k of the convolution path.
            Defaults to 3.
        rates (str): How the paths are weighed (table 6); see
            :class:`PathRates`. Defaults to 'learned'.
        shift (str): How the convolution path shifts maps (table 7); see
            :class:`ConvolutionPath`. Defaults to 'learned'.

    Raises:
        ValueError: If ``head_dim`` does not divide the channels, or an argument
            is out of range.

    Examples:
        >>> from mmdmformer.mixers import ACmix
        >>> ACmix(64)(torch.rand(1, 64, 14, 19)).shape
        torch.Size([1, 64, 14, 19])
    """

    def __init__(
        self,
        channels: int,
        head_dim: int = 32,
        window: int = 7,
        conv_kernel: int = 3,
        rates: str = 'learned',
        shift: str = 'learned',
    ) -> None:
        num_heads = count_heads(channels, head_dim)
        super().__init__(
            QKVProjection(channels, (channels,) * 3),
            WindowAttention(channels, num_heads, window),
            ConvolutionPath(3 * num_heads, head_dim, channels, conv_kernel, shift=shift),
            rates,
        )

    def forward(self, x: Tensor, *context: object) -> Tensor:
        """Mix tokens.

        Args:
            x (Tensor): Input of shape (B, C, H, W).
            context: None, as the projection takes nothing else.

        Returns:
            Tensor: Output of shape (B, C, H, W).
        """
        return keep_format(super().forward(x, *context), x)
