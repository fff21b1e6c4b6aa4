# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""ACmix: convolution and self-attention on shared projections."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .arguments import check_choice, check_odd

RATES = (
    'learned',
    'attention',
    'convolution',
    'fixed',
    'learned_alpha',
    'learned_beta',
    'complementary',
)
SHIFTS = ('learned', 'random', 'fixed', 'tensor')


class ACmix(nn.Module):
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
        >>> mixer = ACmix(
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

    def forward(self, attention: Tensor | None, convolution: Tensor | None) -> Tensor:
        """Add the paths' outputs, of one shape; None is a path that does not exist."""
        if attention is None or convolution is None:
            return convolution if attention is None else attention
        beta = 1 - self.alpha if self.complementary else self.beta
        attention = attention if self.alpha is None else self.alpha * attention
        return attention + (convolution if beta is None else beta * convolution)


class ConvolutionPath(nn.Module):
    """The convolution path: maps are mixed at each position, shifted, and summed.

    All maps, of d channels each, come in one tensor or several. A 1x1
    convolution over the axis of the maps, the same for each of the d channels,
    gives k^2 maps. A convolution of d groups, each with the k^2 maps of one
    channel, shifts every map into a direction of its own and sums them, as
    long as its kernels are what they are initialised with.

    Sources: section 4 and table 7 of the paper; the released code, whose
    convolution has no bias and whose output channels are ordered c N + n for
    channel c of the d and output n of N, whereas the attention's are n d + c.

    Args:
        num_maps (int): Number M of input maps: 3 N for N heads.
        head_dim (int): Channels d of each map.
        channels (int): Output channels, a multiple of d.
        kernel_size (int): Odd kernel size k. Defaults to 3.
        stride (int): Stride of the output. Defaults to 1.
        mixing_bias (bool): Whether the mixing of the maps has a bias.
            Defaults to False.
        shift (str): How maps are shifted (table 7): ``'learned'``, by kernels
            that are initialised to do so and then learn; ``'random'``, by
            kernels that learn from random ones; ``'fixed'``, by kernels that do
            not learn; ``'tensor'``, by moving tensors. Defaults to 'learned'.
        align_heads (bool): Whether the output channels are brought into the
            order of the attention's. Defaults to False, as the released code.

    Raises:
        ValueError: If an argument is out of range.

    Examples:
        >>> path = ConvolutionPath(num_maps=6, head_dim=4, channels=8)
        >>> path(torch.rand(1, 24, 5, 7)).shape
        torch.Size([1, 8, 5, 7])
    """

    def __init__(
        self,
        num_maps: int,
        head_dim: int,
        channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        mixing_bias: bool = False,
        shift: str = 'learned',
        align_heads: bool = False,
    ) -> None:
        super().__init__()
        check_odd('kernel_size', kernel_size)
        check_choice('shift', shift, SHIFTS)
        if channels % head_dim:
            raise ValueError(
                f'the convolution path cannot divide {channels} channels among groups of '
                f'head_dim={head_dim} maps: give a multiple of it.'
            )
        self.num_maps, self.head_dim = num_maps, head_dim
        self.align_heads = align_heads
        self.mixing = nn.Conv2d(num_maps, kernel_size**2, 1, bias=mixing_bias)
        build_shift = TensorShift if shift == 'tensor' else ShiftConvolution
        arguments = {} if shift == 'tensor' else dict(kernels=shift)
        self.shift = build_shift(head_dim, channels, kernel_size, stride, **arguments)

    def forward(self, *maps: Tensor) -> Tensor:
        """Compute the convolution path.

        Args:
            maps (Tensor): Tensors of shape (B, M_i d, H, W); the M_i add up to
                ``num_maps``.

        Returns:
            Tensor: Output of shape (B, channels, ceil(H / s), ceil(W / s)).
        """
        x = maps[0] if len(maps) == 1 else torch.cat(maps, 1)
        mixed = self.mixing(x.unflatten(1, (self.num_maps, self.head_dim)).flatten(3))
        mixed = mixed.transpose(1, 2).flatten(1, 2).unflatten(2, x.shape[2:])
        out = self.shift(mixed)
        if self.align_heads:
            out = out.unflatten(1, (self.head_dim, -1)).transpose(1, 2).flatten(1, 2)
        return out


class ShiftConvolution(nn.Module):
    """Convolution with a group for each of d channels, initialised to shift and sum its maps.

    It is no ``nn.Conv2d``, so that no rule for initial weights of convolutions
    touches its kernels.

    Args:
        head_dim (int): Number d of groups.
        channels (int): Output channels.
        kernel_size (int): Odd kernel size k.
        stride (int): Stride. Defaults to 1.
        kernels (str): ``'learned'``, ``'random'`` or ``'fixed'``; see
            :class:`ConvolutionPath`. Defaults to 'learned'.

    Examples:
        >>> shift = ShiftConvolution(head_dim=1, channels=1, kernel_size=3)
        >>> one = torch.zeros(1, 9, 3, 3)
        >>> one[0, 0, 1, 1] = 1  # the first map is seen through the kernel's first corner
        >>> shift(one)[0, 0].int()
        tensor([[0, 0, 0],
                [0, 0, 0],
                [0, 0, 1]], dtype=torch.int32)
    """

    def __init__(
        self,
        head_dim: int,
        channels: int,
        kernel_size: int,
        stride: int = 1,
        kernels: str = 'learned',
    ) -> None:
        super().__init__()
        self.groups, self.stride = head_dim, stride
        weight = torch.eye(kernel_size**2).view(-1, kernel_size, kernel_size)
        weight = weight.repeat(channels, 1, 1, 1)
        if kernels == 'fixed':
            self.register_buffer('weight', weight)
            return
        self.weight = nn.Parameter(weight)
        if kernels == 'random':
            nn.init.kaiming_normal_(self.weight, mode='fan_out', nonlinearity='relu')

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, d k^2, H, W) to (B, channels, ceil(H / s), ceil(W / s))."""
        padding = self.weight.shape[-1] // 2
        return F.conv2d(x, self.weight, None, self.stride, padding, groups=self.groups)


class TensorShift(nn.Module):
    """What fixed shift kernels compute, by moving tensors.

    Args:
        head_dim (int): Number d of groups.
        channels (int): Output channels; those of a group are the same.
        kernel_size (int): Odd kernel size k.
        stride (int): Stride. Defaults to 1.
    """

    def __init__(self, head_dim: int, channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.outputs = channels // head_dim
        self.kernel_size, self.stride = kernel_size, stride

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, d k^2, H, W) to (B, channels, ceil(H / s), ceil(W / s))."""
        size, stride = self.kernel_size, self.stride
        height, width = x.shape[2:]
        maps = F.pad(x, (size // 2,) * 4).unflatten(1, (-1, size**2))
        shifted = (
            maps[:, :, m, y : y + height : stride, x : x + width : stride]
            for m, (y, x) in enumerate(divmod(m, size) for m in range(size**2))
        )
        return sum(shifted).repeat_interleave(self.outputs, 1)
