# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Folding batch norms, which in inference are affine maps per channel, into their neighbours.

All functions return new layers and leave their arguments as they are.
"""

import copy
from typing import TypeVar

import torch
import torch.nn as nn
from mmcv.cnn import is_norm
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

Layer = TypeVar('Layer', nn.Conv2d, nn.Linear)


def as_affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Write a batch norm in inference as ``scale * x + shift``.

    Args:
        norm (nn.Module): A batch norm of C channels.

    Returns:
        tuple[Tensor, Tensor]: Scale and shift, each of shape (C, ).

    Raises:
        ValueError: If the norm is no batch norm with running statistics.

    Examples:
        >>> norm = nn.BatchNorm2d(1, eps=0)
        >>> _ = norm.running_mean.fill_(3), norm.running_var.fill_(4)
        >>> [v.tolist() for v in as_affine(norm)]
        [[0.5], [-1.5]]
    """
    if not isinstance(norm, _BatchNorm) or norm.running_var is None:
        raise ValueError(
            f'{norm} cannot be folded, as its statistics depend on the input: only batch norm '
            "with running statistics can, so use norm_cfg=dict(type='BN')."
        )
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    if norm.affine:
        shift = shift + norm.bias
    return scale, shift


def fold_after(conv: nn.Conv2d, scale: Tensor, shift: Tensor | float = 0.0) -> nn.Conv2d:
    """Fold ``scale * y + shift`` into the convolution whose output is y.

    Args:
        conv (nn.Conv2d): The convolution, of any kind.
        scale (Tensor): One factor per output channel, of shape (C, ).
        shift (Tensor | float): One summand per output channel, of shape
            (C, ). Defaults to 0.

    Returns:
        nn.Conv2d: A convolution with bias.
    """
    weight = conv.weight * scale[:, None, None, None]
    return _with_parameters(conv, weight, _bias(conv) * scale + shift)


def fold_before(scale: Tensor, shift: Tensor, layer: Layer) -> Layer:
    """Fold ``scale * x + shift`` into the layer whose input x is.

    A kernel above 1x1 is not possible: its zero padding knows no shift.

    Args:
        scale (Tensor): One factor per input channel, of shape (C, ).
        shift (Tensor): One summand per input channel, of shape (C, ).
        layer (nn.Conv2d | nn.Linear): A 1x1 convolution without groups, or a
            linear layer.

    Returns:
        nn.Conv2d | nn.Linear: The same kind of layer, with bias.
    """
    matrix = layer.weight.flatten(1)
    weight = (matrix * scale).view_as(layer.weight)
    return _with_parameters(layer, weight, matrix @ shift + _bias(layer))


def compose(first: nn.Conv2d, second: nn.Conv2d) -> nn.Conv2d:
    """Make one 1x1 convolution of two without anything between them.

    Args:
        first (nn.Conv2d): A 1x1 convolution without groups.
        second (nn.Conv2d): Another, on the output of the first.

    Returns:
        nn.Conv2d: A 1x1 convolution with bias.
    """
    outer, inner = second.weight.flatten(1), first.weight.flatten(1)
    composed = nn.Conv2d(first.in_channels, second.out_channels, 1)
    weight = (outer @ inner)[:, :, None, None]
    return _with_parameters(composed, weight, outer @ _bias(first) + _bias(second))


def fold_sequence(layers: nn.Module) -> nn.Sequential:
    """Fold every batch norm of a sequence into the convolution before it.

    Args:
        layers (nn.Module): An ``nn.Sequential`` in which each batch norm
            follows a convolution, or an ``nn.Identity``.

    Returns:
        nn.Sequential: The layers without the norms.
    """
    folded: list[nn.Module] = []
    for layer in layers.children():
        if is_norm(layer):
            folded[-1] = fold_after(folded[-1], *as_affine(layer))
        else:
            folded.append(layer)
    return nn.Sequential(*folded)


def _bias(layer: nn.Conv2d | nn.Linear) -> Tensor:
    return torch.zeros_like(layer.weight.flatten(1)[:, 0]) if layer.bias is None else layer.bias


def _with_parameters(layer: Layer, weight: Tensor, bias: Tensor) -> Layer:
    layer = copy.deepcopy(layer)
    layer.weight, layer.bias = (nn.Parameter(p.detach().clone()) for p in (weight, bias))
    return layer
