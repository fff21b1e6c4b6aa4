# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Selection of the backend for the sum of depthwise convolutions."""

import functools
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ..compat import has_fused_convolutions, is_exporting
from .watching import is_transforming

BACKENDS = ('auto', 'reference', 'cpu', 'fused', 'triton')
_forced = os.environ.get('MMDMFORMER_DWCONV', 'auto')
_FULL_PRECISION = torch.float32, torch.float64
_logger = logging.getLogger('mmdmformer')


@contextmanager
def dwconv_backend(name: str) -> Iterator[None]:
    """Force the backend of :func:`multi_dilated_dwconv` inside a ``with`` block.

    The environment variable ``MMDMFORMER_DWCONV`` does so for a whole process.

    Args:
        name (str): ``'reference'`` (torch's layers and the given memory
            format alone, in the whole network: the yardstick of tests and
            benchmarks), ``'cpu'`` (an operator that sums the branches and
            has fast gradients), ``'fused'`` (sum and activation inside the
            convolutions, for inference in float32), ``'triton'`` (one kernel
            for all branches, on GPUs), or ``'auto'``.

    Raises:
        ValueError: If there is no such backend.
    """
    global _forced
    before, _forced = _forced, _known(name)
    try:
        yield
    finally:
        _forced = before


def forced_backend() -> str:
    """Name the backend that is forced, or ``'auto'``.

    Raises:
        ValueError: If ``MMDMFORMER_DWCONV`` names none.
    """
    return _known(_forced)


def choose_backend(x: Tensor, *parameters: Tensor | None) -> str:
    """Choose a backend: the one that is forced, else the first that nothing speaks against.

    The logger ``mmdmformer`` tells each choice once, on the level INFO.

    Args:
        x (Tensor): Input.
        *parameters (Tensor, optional): Weights and biases.

    Returns:
        str: ``'fused'``, ``'cpu'``, ``'triton'``, ``'reference'``, or ``'torch'``: torch's own
        convolutions, padded as their device likes it best.

    Raises:
        ValueError: If the forced backend cannot compute this.
    """
    name = forced_backend()
    if name == 'auto':
        # The Triton kernels have not been timed on a GPU yet, and are used on demand alone.
        fitting = (b for b in ('fused', 'cpu') if why_not(b, x, *parameters) is None)
        name = next(fitting, 'torch')
    elif name == 'fused' and (reason := why_not('fused', x, *parameters)):
        raise ValueError(
            f"the backend 'fused' (MMDMFORMER_DWCONV) cannot compute this, as {reason}: "
            'choose auto.'
        )
    if not torch.compiler.is_compiling():
        _log_once(name, str(x.dtype), x.device.type)
    return name


def why_not(backend: str, x: Tensor, *parameters: Tensor | None) -> str | None:
    """Tell why a backend is not chosen.

    Args:
        backend (str): ``'fused'`` or ``'cpu'``.
        x (Tensor): Input.
        *parameters (Tensor, optional): Weights and biases.

    Returns:
        str, optional: What speaks against it, or None.

    Examples:
        >>> x = torch.ones(1, requires_grad=True)
        >>> why_not('fused', x), why_not('cpu', x)
        ('gradients are wanted', None)
    """
    if x.device.type != 'cpu':
        return 'the tensors are not on a CPU'
    if is_transforming():
        return 'a function transform is active'
    if torch.is_autocast_enabled('cpu'):
        return 'autocast is active'
    if torch.jit.is_tracing() or is_exporting():
        return 'a graph for elsewhere is captured'
    if backend == 'cpu':
        return None if x.dtype in _FULL_PRECISION else 'the type is not float32 or float64'
    if x.dtype != torch.float32:
        return 'the type is not float32'
    if x.shape[0] == 0:  # len(x) would tie torch.export to one size of batch
        return 'the batch is empty'
    if torch.compiler.is_compiling():
        return 'a graph is captured'
    if _needs_gradients(x, *parameters):
        return 'gradients are wanted'
    return None if has_fused_convolutions() else 'this torch lacks the operators'


def fuses(x: Tensor, *parameters: Tensor | None) -> bool:
    """Tell whether oneDNN's fused convolutions can run: on a CPU, in float32, for no graph.

    Args:
        x (Tensor): Input.
        *parameters (Tensor, optional): Parameters of the computation.

    Returns:
        bool: Whether nothing speaks against it and no other backend is forced.

    Examples:
        >>> x = torch.ones(1, requires_grad=True)
        >>> with torch.no_grad():
        ...     in_inference = fuses(x)
        >>> fuses(x), fuses(x.detach()), in_inference
        (False, True, True)
    """
    return forced_backend() in ('auto', 'fused') and why_not('fused', x, *parameters) is None


def _needs_gradients(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


@functools.cache
def _log_once(name: str, dtype: str, device: str) -> None:
    _logger.info('multi_dilated_dwconv: %s on %s takes the backend %r', dtype, device, name)


def _known(name: str) -> str:
    if name not in BACKENDS:
        raise ValueError(
            f'{name!r} is no backend of multi_dilated_dwconv (MMDMFORMER_DWCONV): choose one of '
            f'{", ".join(BACKENDS)}.'
        )
    return name
