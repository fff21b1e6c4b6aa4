# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The convolution path of ACmix."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .arguments import check_choice, check_odd

SHIFTS = ('learned', 'random', 'fixed', 'tensor')


class ConvolutionPath(nn.Module):
    """The convolution path: maps are mixed at each position, shifted, and summed.

    All maps, of d channels each, come in one tensor or several. A 1x1
    convolution over the axis of the maps, the same for each of the d channels,
    gives k^2 maps. A convolution of d groups, each with the k^2 maps of one
    channel, shifts every map into a direction of its own and sums them, as
    long as its kernels are what they are initialized with.

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
            that are initialized to do so and then learn; ``'random'``, by
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
    """Convolution with a group for each of d channels, initialized to shift and sum its maps.

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
        maps = F.pad(x, (size // 2,) * 4).unflatten(1, (-1, size**2))
        # Ends that count from the end keep the sides of an ONNX graph variable.
        places = [slice(i, i - size + 1 or None, stride) for i in range(size)]
        shifted = (maps[:, :, m, places[m // size], places[m % size]] for m in range(size**2))
        return sum(shifted).repeat_interleave(self.outputs, 1)
