# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The form of networks for inference: batch norms, which are affine maps per channel by then, and
layer scales are folded into their neighbors.

All functions return new layers and leave their arguments as they are.
"""

import copy
from typing import Any, TypeVar

import torch
import torch.nn as nn
from mmcv.cnn import is_norm
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ..ops import conv2d, fuses, is_watched, map_slices, sum_branches

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
    if not isinstance(norm, _BatchNorm) or norm.running_mean is None or norm.running_var is None:
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
    folded: list[Any] = []
    for layer in layers.children():
        if is_norm(layer):
            folded[-1] = fold_after(folded[-1], *as_affine(layer))
        else:
            folded.append(layer)
    return nn.Sequential(*folded)


class FoldedBlock(nn.Module):
    """A MetaFormer block in inference: two residual branches without norms and layer scales.

    Args:
        mixer (nn.Module): The token mixer's whole residual branch, such as
            :class:`FoldedDMA`; maps (B, C, H, W) to the same shape.
        norm (nn.Module): The batch norm before the FFN.
        ffn (nn.Sequential): The FFN: a pointwise convolution,
            layers, a pointwise convolution.
        scale (Tensor): The layer scale after it, of shape (C, ).

    Raises:
        ValueError: If the norm is no batch norm with running statistics.
    """

    def __init__(
        self, mixer: nn.Module, norm: nn.Module, ffn: nn.Sequential, scale: Tensor
    ) -> None:
        super().__init__()
        first, *middle, last = list[Any](ffn)
        self.mixer = mixer
        self.ffn: Any = nn.Sequential(
            fold_before(*as_affine(norm), first), *middle, fold_after(last, scale)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` of shape (B, C, H, W) to the same shape."""
        sliced = not torch.is_grad_enabled() and fuses(x) and x.shape[0] > 1
        if not sliced or is_watched(*self.modules()):
            return self._forward(x)
        widest = max(m.out_channels for m in self.modules() if isinstance(m, nn.Conv2d))
        return map_slices(self._forward, x, widest * x[0, 0].nbytes)

    def _forward(self, x: Tensor) -> Tensor:
        x = self.mixer(x)
        expand, depthwise, act, reduce = self.ffn
        y = conv2d(conv2d(x, expand), depthwise, act)
        return conv2d(y, reduce, add=x)


class ResidualMixer(nn.Module):
    """A token mixer's residual branch ``x + scale * mixer(norm(x))``, of a mixer without a fold.

    Args:
        norm (nn.Module): The norm before the mixer.
        mixer (nn.Module): The mixer.
        scale (Tensor): The layer scale after it, of shape (C, ).
    """

    def __init__(self, norm: nn.Module, mixer: nn.Module, scale: Tensor) -> None:
        super().__init__()
        self.norm, self.mixer = norm, mixer
        self.scale = nn.Parameter(scale.detach()[:, None, None].clone())

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` of shape (B, C, H, W) to the same shape."""
        return torch.addcmul(x, self.scale, self.mixer(self.norm(x)))


def fold_mixer(norm: nn.Module, mixer: nn.Module, scale: Tensor) -> nn.Module:
    """Fold a token mixer's residual branch as far as the mixer can.

    Args:
        norm (nn.Module): The norm before the mixer.
        mixer (nn.Module): The mixer; its method ``fold(norm, scale)``, if it
            has one, gives the whole branch.
        scale (Tensor): The layer scale after it, of shape (C, ).

    Returns:
        nn.Module: Computes ``x + scale * mixer(norm(x))`` in inference.

    Raises:
        ValueError: If the mixer folds, and a norm is no batch norm with
            running statistics.
    """
    fold = getattr(mixer, 'fold', None)
    return ResidualMixer(norm, mixer, scale) if fold is None else fold(norm, scale)


class FoldedDMA(nn.Module):
    """The residual branch of :class:`~mmdmformer.mixers.DMA` in inference, without norms.

    It computes ``x + scale * mixer(norm(x))``. Batch norms and layer scale are
    folded into the layers beside them; the reduction and the last pointwise
    convolution become one, and a second one takes the input that the residual
    addition passes on.

    Args:
        norm (nn.Module): The batch norm before the mixer.
        mixer (DMA): The mixer.
        scale (Tensor): The layer scale after it, of shape (C, ).

    Raises:
        ValueError: If a norm is no batch norm with running statistics.

    Examples:
        >>> from mmdmformer.mixers import DMA
        >>> norm, mixer, scale = nn.BatchNorm2d(8).eval(), DMA(8).eval(), torch.rand(8)
        >>> x = torch.rand(1, 8, 9, 9)
        >>> expected = x + scale[:, None, None] * mixer(norm(x))
        >>> torch.allclose(FoldedDMA(norm, mixer, scale)(x), expected, atol=1e-5)
        True
    """

    def __init__(self, norm: nn.Module, mixer: Any, scale: Tensor) -> None:
        super().__init__()
        before = as_affine(norm)
        expand = fold_after(mixer.expand, *as_affine(mixer.expand_norm))
        self.expand = fold_before(*before, expand)
        self.expand_act = mixer.expand_act

        branch_scale, branch_shift = as_affine(mixer.branch_norm)
        self.branches: Any = nn.ModuleList(
            fold_after(branch, branch_scale, 0.0 if i else branch_shift)  # once for the sum
            for i, branch in enumerate(mixer.branches)
        )
        self.branch_act = mixer.branch_act

        value = copy.deepcopy(mixer.value)
        self.out_act: nn.Module = nn.Identity()
        if isinstance(mixer.value_norm_act, nn.Sequential):
            value_norm, self.out_act = mixer.value_norm_act
            value = fold_after(value, *as_affine(value_norm))
        reduce = fold_after(mixer.reduce, *as_affine(mixer.reduce_norm))
        self.value = compose(reduce, value)
        self.skip = None
        if mixer.residual:
            value.bias = None  # the other convolution has it
            self.skip = fold_before(*before, value)

        self.gate = copy.deepcopy(mixer.gate)
        if self.gate is not None:
            self.gate.fcs[0] = fold_before(*before, self.gate.fcs[0])
        self.scale = nn.Parameter(scale.detach()[:, None, None].clone())

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` of shape (B, C, H, W) to the same shape."""
        y = conv2d(x, self.expand, self.expand_act)
        y = sum_branches(y, self.branches, self.branch_act)
        if self.skip is None:
            y = conv2d(y, self.value, self.out_act)
        else:
            y = conv2d(x, self.skip, self.out_act, add=conv2d(y, self.value))
        scale = self.scale if self.gate is None else self.scale * self.gate(x)
        return torch.addcmul(x, scale, y)


def _bias(layer: nn.Conv2d | nn.Linear) -> Tensor:
    return torch.zeros_like(layer.weight.flatten(1)[:, 0]) if layer.bias is None else layer.bias


def _with_parameters(layer: Layer, weight: Tensor, bias: Tensor) -> Layer:
    layer = copy.deepcopy(layer)
    layer.weight, layer.bias = (nn.Parameter(p.detach().clone()) for p in (weight, bias))
    return layer
