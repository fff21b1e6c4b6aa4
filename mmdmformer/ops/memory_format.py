# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The memory layout of feature maps."""

import torch
from torch import Tensor


def memory_format_of(x: Tensor) -> torch.memory_format:
    """Tell the memory format that layers of torch would keep.

    Args:
        x (Tensor): Maps of shape (B, C, H, W).

    Returns:
        torch.memory_format: ``channels_last`` where the maps are so and not
        contiguous as well, else ``contiguous_format``.

    Examples:
        >>> memory_format_of(torch.rand(1, 3, 4, 4).to(memory_format=torch.channels_last))
        torch.channels_last
        >>> memory_format_of(torch.rand(1, 3, 4, 4)[..., 1:])
        torch.contiguous_format
    """
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format
