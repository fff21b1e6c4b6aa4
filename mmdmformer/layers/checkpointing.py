# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Activation checkpointing that updates the running statistics of norm layers once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def checkpoint_forward(module: nn.Module, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Run ``forward(x)`` without keeping its activations; the backward pass computes them again.

    Args:
        module (nn.Module): The module that ``forward`` belongs to.
        forward (Callable): Function of one tensor.
        x (Tensor): Its argument.

    Returns:
        Tensor: ``forward(x)``.
    """
    if torch.compiler.is_compiling():
        # The compiler takes no context, and needs none: it records updates of buffers once.
        return checkpoint(forward, x, use_reentrant=False)
    return checkpoint(
        forward,
        x,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _running_stats_untouched(module)),
    )


@contextmanager
def _running_stats_untouched(module: nn.Module) -> Iterator[None]:
    # The second run of the forward pass would count its batch twice; it updates copies instead.
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training]
    originals = [dict(norm.named_buffers(recurse=False)) for norm in norms]
    for norm, buffers in zip(norms, originals, strict=True):
        for name, buffer in buffers.items():
            setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, buffers in zip(norms, originals, strict=True):
            for name, buffer in buffers.items():
                setattr(norm, name, buffer)
