# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Which way of computing is taken, where somebody wants to choose it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

PATHS = ('auto', 'reference', 'split', 'cpu', 'fused', 'triton')
_path = os.environ.get('MMDMFORMER_DWCONV', 'auto')


@contextmanager
def dwconv_path(path: str) -> Iterator[None]:
    """Force one way of computing :func:`multi_dilated_dwconv` inside a ``with`` block.

    The environment variable ``MMDMFORMER_DWCONV`` does so for a whole process.

    Args:
        path (str): ``'reference'`` (torch's layers and the given memory
            format alone, in the whole network: the yardstick of tests and
            benchmarks), ``'split'`` (part of the padding made before a
            convolution), ``'cpu'`` (an operator that sums the branches and
            has fast gradients), ``'fused'`` (sum and activation inside the
            convolutions, for inference in float32), ``'triton'`` (one kernel for all
            branches, on GPUs), or ``'auto'``.

    Raises:
        ValueError: If there is no such path.
    """
    global _path
    before, _path = _path, _known(path)
    try:
        yield
    finally:
        _path = before


def current_path() -> str:
    """Name the path that is forced, or ``'auto'``.

    Raises:
        ValueError: If ``MMDMFORMER_DWCONV`` names none.
    """
    return _known(_path)


def to_preferred_format(x: Tensor) -> Tensor:
    """Lay maps out as the convolutions of their device like it best.

    Args:
        x (Tensor): Maps of shape (B, C, H, W).

    Returns:
        Tensor: The same values, on CPUs with the channels last.
    """
    if x.device.type == 'cpu' and current_path() != 'reference':
        return x.contiguous(memory_format=torch.channels_last)
    return x


def _known(path: str) -> str:
    if path not in PATHS:
        raise ValueError(
            f'{path!r} is no way to compute multi_dilated_dwconv (MMDMFORMER_DWCONV): choose one '
            f'of {", ".join(PATHS)}.'
        )
    return path
