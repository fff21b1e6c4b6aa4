# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Depthwise convolutions whose kernels differ from image to image, or from position to position."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .local_attention import _Aggregate


def dwconv_by_image(x: Tensor, kernels: Tensor, size: int) -> Tensor:
    """Convolve each image with depthwise kernels of its own, with "same" zero padding.

    Args:
        x (Tensor): Maps of shape (B, C, H, W).
        kernels (Tensor): Kernels of shape (B, C, k, k).
        size (int): Odd side k of the kernels.

    Returns:
        Tensor: Maps of shape (B, C, H, W).

    Examples:
        >>> x, kernels = torch.ones(2, 1, 1, 3), torch.ones(2, 1, 3, 3)
        >>> kernels[1] *= 10
        >>> dwconv_by_image(x, kernels, 3).flatten(1)
        tensor([[ 2.,  3.,  2.],
                [20., 30., 20.]])
    """
    batch = x.shape[0]
    if torch.jit.is_tracing() or batch == 0:  # a graph may be for any size of batch
        y = torch.einsum('bct,bctp->bcp', kernels.flatten(2), _unfold(x, size))
        return y.reshape(x.shape)
    if torch.compiler.is_compiling():  # which fuses the product with the sum
        return (_unfold(x, size) * kernels.flatten(2)[..., None]).sum(2).reshape(x.shape)
    # Each channel of each image is a group.
    groups = kernels.flatten(0, 1)[:, None]
    y = F.conv2d(x.flatten(0, 1)[None], groups, padding=size // 2, groups=len(groups))
    return y.reshape(x.shape)


def dwconv_by_position(x: Tensor, kernels: Tensor, size: int) -> Tensor:
    """Convolve each position with depthwise kernels of its own, with "same" zero padding.

    Args:
        x (Tensor): Maps of shape (B, C, H, W).
        kernels (Tensor): Kernels of shape (B, G, k^2, H, W): the C channels, in
            G groups of neighbors, share the kernels of their group.
        size (int): Odd side k of the kernels.

    Returns:
        Tensor: Maps of shape (B, C, H, W).

    Examples:
        >>> x, kernels = torch.ones(1, 1, 1, 3), torch.ones(1, 1, 9, 1, 3)
        >>> kernels[..., 2] *= 10
        >>> dwconv_by_position(x, kernels, 3).flatten()
        tensor([ 2.,  3., 20.])
    """
    groups = kernels.shape[1]
    if torch.jit.is_tracing():  # counters of multiply-adds know no other product
        windows = _unfold(x, size).unflatten(1, (groups, -1))
        return torch.einsum('bgctp,bgtp->bgcp', windows, kernels.flatten(3)).reshape(x.shape)
    if torch.compiler.is_compiling():  # which fuses the product with the sum
        windows = _unfold(x, size).unflatten(1, (groups, -1))
        return (windows * kernels.flatten(3)[:, :, None]).sum(3).reshape(x.shape)
    padded = F.pad(x, (size // 2,) * 4).unflatten(1, (groups, -1)).transpose(1, 2)
    y = _Aggregate.apply(kernels, padded.to(kernels.dtype), size)
    return y.transpose(1, 2).flatten(1, 2)


def _unfold(x: Tensor, size: int) -> Tensor:
    """The k^2 positions around each one, of shape (B, C, k^2, H W)."""
    return F.unfold(x, size, padding=size // 2).unflatten(1, (-1, size**2))
