# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""From feature maps to tokens and back, for token mixers that are attention."""

from torch import Tensor

from ..ops.memory_format import memory_format_of


def to_tokens(x: Tensor) -> Tensor:
    """View maps of shape (B, C, H, W) as tokens of shape (B, H W, C)."""
    return x.flatten(2).transpose(1, 2)


def to_maps(tokens: Tensor, like: Tensor) -> Tensor:
    """Lay tokens out as maps.

    Args:
        tokens (Tensor): Tokens of shape (B, H W, C).
        like (Tensor): Maps of shape (B, C', H, W).

    Returns:
        Tensor: Maps of shape (B, C, H, W) in the memory format of ``like``.

    Examples:
        >>> import torch
        >>> x = torch.rand(2, 3, 4, 5)
        >>> to_maps(to_tokens(x), x).equal(x)
        True
    """
    batch, _, height, width = like.shape
    # Unlike unflatten, this keeps the sides of an ONNX graph variable.
    maps = tokens.transpose(1, 2).reshape(batch, tokens.shape[2], height, width)
    return keep_format(maps, like)


def keep_format(y: Tensor, x: Tensor) -> Tensor:
    """Lay a mixer's output out in the memory format of its input, as torch's own layers do."""
    return y.contiguous(memory_format=memory_format_of(x))
