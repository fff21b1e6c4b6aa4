# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Common functions of the operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import metadata

import torch
from torch import Tensor

from ..environment import load_torchvision_operators

_MMCV_PACKAGES = ('mmcv', 'mmcv-lite', 'onedl-mmcv')
_HALF_TYPES = (torch.float16, torch.bfloat16)


def how_to_build() -> str:
    """How to get mmcv's own operators for the installed torch."""
    packages = {d.name: d.version for d in metadata.distributions() if d.name in _MMCV_PACKAGES}
    name, version = next(iter(packages.items()), ('mmcv', None))
    uninstall = 'pip uninstall -y mmcv-lite && ' if name == 'mmcv-lite' else ''
    package = name.removesuffix('-lite') + (f'=={version}' if version else '')
    # Neither an isolated build nor a wheel from pip's cache is made for this torch.
    return (
        f'build them for this torch with `{uninstall}pip install --force-reinstall --no-deps '
        f'--no-build-isolation --no-cache-dir {package}`'
    )


def torchvision_operator(name: str) -> Callable:
    """Operator ``name`` of torchvision, which is differentiable."""
    if not load_torchvision_operators():
        raise ImportError(
            f"mmcv operator '{name}' is served by torchvision, which is not installed; install "
            f'the one that fits with `pip install torch=={torch.__version__.split("+")[0]} '
            'torchvision`.'
        )
    return getattr(torch.ops.torchvision, name)


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision widened: torchvision's kernels do not take it on every device."""
    return x.float() if x.dtype in _HALF_TYPES else x


def fill_gradients(
    function: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    grad_output: Tensor,
    gradients: Sequence[Tensor],
) -> None:
    """Fill ``gradients`` with those of ``function(*inputs)``, which is computed once more for them.

    mmcv's backward passes hand over what the forward pass was given, and tensors to be filled.
    """
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in inputs]
        output = function(*leaves)
        found = torch.autograd.grad(output, leaves, grad_output.to(output.dtype))
    for gradient, values in zip(gradients, found, strict=True):
        gradient.copy_(values)
