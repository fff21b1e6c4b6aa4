# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Token mixing inside the windows of a map of any size."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .tokens import keep_format


def mix_in_windows(
    x: Tensor, mix: Callable[[Tensor, Tensor | None], Tensor], window: int, shift: int = 0
) -> Tensor:
    """Cut a map into windows, mix the tokens of each, and put the map together again.

    Where the windows reach beyond the map, they are padded, and a mask keeps
    the padding out.

    Args:
        x (Tensor): Maps of shape (B, C, H, W).
        mix (Callable): Maps tokens of shape (B * num_windows, window^2, C) and
            a mask to tokens. The mask, of shape (num_windows, window^2,
            window^2), is 0 where the key is a token, and minus infinity where
            it is padding; None if nothing is padded.
        window (int): Side of the windows.
        shift (int): Row and column in which the second window begins, or 0 for
            windows that begin in the map's corner. Defaults to 0.

    Returns:
        Tensor: Maps of shape (B, C, H, W) in the memory format of ``x``.

    Examples:
        >>> x = torch.arange(5.0).view(1, 1, 1, 5)
        >>> def mean(tokens, mask):
        ...     return (mask == 0).float() @ tokens / (mask == 0).sum(-1, keepdim=True)
        >>> mix_in_windows(x, mean, window=2).flatten()
        tensor([0.5000, 0.5000, 2.5000, 2.5000, 4.0000])
        >>> mix_in_windows(x, mean, window=2, shift=1).flatten()
        tensor([0.0000, 1.5000, 1.5000, 3.5000, 3.5000])
    """
    height, width = x.shape[2:]
    before = -shift % window
    below, right = (-(before + side) % window for side in (height, width))
    padding = 0, 0, before, right, before, below
    padded = F.pad(x.permute(0, 2, 3, 1), padding)
    grid = x.shape[0], padded.shape[1] // window, padded.shape[2] // window
    mask = None
    # A traced network meets maps of other sizes.
    if torch.jit.is_tracing() or before or below or right:
        inside = F.pad(x.new_zeros(1, height, width, 1), padding, value=float('-inf'))
        mask = _cut(inside, (1, *grid[1:]), window).transpose(1, 2).expand(-1, window**2, -1)
    mixed = _join(mix(_cut(padded, grid, window), mask), grid, window)
    mixed = mixed[:, before : before + height, before : before + width].permute(0, 3, 1, 2)
    return keep_format(mixed, x)


def _cut(x: Tensor, grid: tuple[int, int, int], window: int) -> Tensor:
    """From (B, H, W, C) to (B * num_windows, window^2, C)."""
    batch, rows, columns = grid
    x = x.reshape(batch, rows, window, columns, window, x.shape[-1]).transpose(2, 3)
    return x.reshape(batch * rows * columns, window**2, x.shape[-1])


def _join(windows: Tensor, grid: tuple[int, int, int], window: int) -> Tensor:
    """The reverse."""
    batch, rows, columns = grid
    x = windows.reshape(batch, rows, columns, window, window, windows.shape[-1]).transpose(2, 3)
    return x.reshape(batch, rows * window, columns * window, x.shape[-1])
