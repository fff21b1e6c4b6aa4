# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Dynamic depthwise convolution: kernels that a small network makes from the input."""

from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from ..ops.dynamic_dwconv import dwconv_by_image, dwconv_by_position
from ..registry import TOKEN_MIXERS
from .arguments import check_odd, check_positive
from .tokens import keep_format


@TOKEN_MIXERS.register_module()
class DynamicDepthwiseConv(nn.Module):
    r"""Depthwise convolution whose kernels are made from the input, with no bank to choose from.

    .. math:: y_{c,i} = \sum_{j \in N(i)} w_{c,i,j-i} \, x_{c,j}, \quad
        w_i = W_2 \, \mathrm{ReLU}(\mathrm{BN}(W_1 z_i))

    where N(i) are the k x k positions around i. In the inhomogeneous form, the
    default, z_i is the feature at position i, so that each position has kernels
    of its own; it is what table 1 of `Interpret Vision Transformers as ConvNets
    with Dynamic Convolutions <https://arxiv.org/abs/2309.10713>`_ calls D-DW-Conv.
    In the homogeneous form it is the average over the image, which then has one
    kernel for each channel.

    Source: `On the Connection between Local Attention and Dynamic Depth-wise
    Convolution <https://arxiv.org/abs/2106.04263>`_ (ICLR 2022), section 3.4,
    with the released code's network of two pointwise convolutions. The pointwise
    convolutions around it, in that paper's block, are left to the FFN.
    With G = C / ``group_channels`` it costs
    HW (C^2 / r + G C k^2 / r + C k^2) multiply-adds; in the homogeneous form
    HWC k^2, and C^2 / r + G C k^2 / r for each image.

    Args:
        channels (int): Number C of input and output channels.
        kernel_size (int): Odd side k of the kernels. Defaults to 7.
        homogeneous (bool): Whether all positions of an image have the same
            kernels. Defaults to False.
        group_channels (int): Number of neighboring channels that share a
            kernel. Defaults to 1, as the definition has it.
        reduction (int): How many times fewer channels the hidden layer has.
            Defaults to 4.
        norm_cfg (dict): Config of the norm layer. Defaults to
            ``dict(type='BN')``.

    Raises:
        ValueError: If ``kernel_size`` is even, a number is not positive, or the
            groups do not divide the channels.

    Examples:
        >>> import torch
        >>> from mmdmformer.mixers import DynamicDepthwiseConv
        >>> DynamicDepthwiseConv(64)(torch.rand(1, 64, 14, 14)).shape
        torch.Size([1, 64, 14, 14])
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int = 7,
        homogeneous: bool = False,
        group_channels: int = 1,
        reduction: int = 4,
        norm_cfg: dict = dict(type='BN'),
    ) -> None:
        super().__init__()
        check_odd('kernel_size', kernel_size)
        check_positive('reduction', reduction)
        if group_channels < 1 or channels % group_channels:
            raise ValueError(
                f'group_channels={group_channels} does not divide {channels} channels: choose a '
                'divisor, such as 1.'
            )
        self.kernel_size, self.homogeneous = kernel_size, homogeneous
        self.group_channels = group_channels
        hidden = max(channels // reduction, 1)
        self.generate = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            build_norm_layer(norm_cfg, hidden)[1],
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, channels // group_channels * kernel_size**2, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens.

        Args:
            x (Tensor): Input of shape (B, C, H, W).

        Returns:
            Tensor: Output of shape (B, C, H, W).
        """
        convolve = dwconv_by_image if self.homogeneous else dwconv_by_position
        return keep_format(convolve(x, self.make_kernels(x), self.kernel_size), x)

    def make_kernels(self, x: Tensor) -> Tensor:
        """Make the kernels.

        Args:
            x (Tensor): Input of shape (B, C, H, W).

        Returns:
            Tensor: Of shape (B, G, k^2, H, W); in the homogeneous form
            (B, C, k, k).
        """
        size = self.kernel_size
        if not self.homogeneous:
            return self.generate(x).unflatten(1, (-1, size**2))
        kernels = self.generate(x.mean(dim=(2, 3), keepdim=True)).flatten(1)
        return kernels.unflatten(1, (-1, size, size)).repeat_interleave(self.group_channels, dim=1)
