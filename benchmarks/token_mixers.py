# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Token mixers in the terms of the unified view: their kernels, and how these are chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from mmdmformer.mixers import (
    DMA,
    DynamicConv,
    DynamicDepthwiseConv,
    DynamicTokenAttention,
    Linformer,
    SelfAttention,
)


@dataclass(frozen=True)
class Description:
    """A mixer in the terms of the paper's Table 1.

    Args:
        bank (str): What the kernels are made of.
        selection (str): Which of them an output takes.
        kernel (str): Standard or depthwise, and the size in pixels.
        channels (str): Channels from kernel to kernel. Defaults to what the layer has.
        activation (str): What lies between the two dynamic convolutions. Defaults to nothing.
        static (str): What else mixes tokens, with learned weights. Defaults to nothing.
    """

    bank: str
    selection: str
    kernel: str
    channels: str = ''
    activation: str = ''
    static: str = ''


Describe = Callable[[nn.Module, dict[str, Any]], Description | None]
_DESCRIPTIONS: dict[str, Describe] = {}


def describes(*types: type | str) -> Callable[[Describe], Describe]:
    """Register a function that describes mixers of some types, and of types derived from them.

    Args:
        types (type | str): Classes, or the full names of classes that may not be installed.

    Returns:
        Callable: A decorator. The function takes the mixer and the arguments of its forward pass
        by name, the input first, and returns a :class:`Description`, or None if the module mixes
        no tokens.

    Examples:
        >>> import torch
        >>> from unified_view import view_network
        >>> class Shift(nn.Module):
        ...     def forward(self, x):
        ...         return x.roll(1, -1)
        >>> @describes(Shift)
        ... def describe_shift(mixer, inputs):
        ...     return Description('one fixed kernel', 'the one', 'depthwise 1x2', '1')
        >>> (row,) = view_network(Shift(), torch.rand(1, 3, 8, 8))
        >>> row.mixer, row.is_dynamic
        ('Shift', False)
    """

    def register(function: Describe) -> Describe:
        for kind in types:
            _DESCRIPTIONS[kind if isinstance(kind, str) else _full_name(kind)] = function
        return function

    return register


def _full_name(kind: type) -> str:
    return f'{kind.__module__}.{kind.__qualname__}'


def find_description(module: nn.Module) -> Describe | None:
    """Find what :func:`describes` registered for a module's type or the nearest of its bases."""
    found = (_DESCRIPTIONS.get(_full_name(kind)) for kind in type(module).__mro__)
    return next(filter(None, found), None)


# Descriptions


def _input(inputs: dict[str, Any]) -> Tensor:
    return next(iter(inputs.values()))


@describes(nn.Conv2d)
def _describe_convolution(mixer: nn.Conv2d, inputs: dict[str, Any]) -> Description | None:
    if max(mixer.kernel_size) == 1:
        return None
    depthwise = mixer.groups == mixer.in_channels > 1
    return Description(
        'one learned kernel', 'the one', f'{_kind(depthwise)} {_size(mixer.kernel_size)}'
    )


@describes(nn.AvgPool2d)
def _describe_pooling(mixer: nn.AvgPool2d, inputs: dict[str, Any]) -> Description:
    size = mixer.kernel_size
    size = (size, size) if isinstance(size, int) else size
    return Description('one fixed kernel', 'the one', f'depthwise {_size(size)}')


@describes(nn.MultiheadAttention, 'mmpretrain.models.utils.attention.MultiheadAttention')
def _describe_attention(mixer: nn.Module, inputs: dict[str, Any]) -> Description:
    sequence_first = isinstance(mixer, nn.MultiheadAttention) and not mixer.batch_first
    tokens = _input(inputs).shape[0 if sequence_first else 1]
    return _token_kernels(tokens, _width(mixer) // mixer.num_heads, 'all (hard)', 'softmax')


def _width(mixer: nn.Module) -> int:
    return mixer.embed_dim if isinstance(mixer, nn.MultiheadAttention) else mixer.embed_dims


@describes('mmpretrain.models.utils.attention.WindowMSA')
def _describe_window_attention(mixer: nn.Module, inputs: dict[str, Any]) -> Description:
    tokens = _input(inputs).shape[1]
    return _token_kernels(
        tokens,
        mixer.embed_dims // mixer.num_heads,
        _in_window(mixer.window_size, 0, inputs.get('mask')),
        'softmax',
        _table(mixer.window_size),
    )


@describes(DynamicTokenAttention)
def _describe_dynamic_attention(
    mixer: DynamicTokenAttention, inputs: dict[str, Any]
) -> Description:
    tokens = _input(inputs).shape[1]
    size, mask = inputs.get('window_size') or mixer.window_size, inputs.get('mask')
    selection = _in_window(size, tokens - size[0] * size[1], mask)
    relative = mixer.relative_position_bias_table is not None
    taps = f'depthwise {_size([2 * side - 1 for side in size])}' if relative else ''
    if mixer.depthwise:
        return Description(
            f'keys of {tokens} tokens',
            f'mean of {selection}',
            'depthwise 1x1',
            '1',
            static=taps and f'{taps} on keys',
        )
    table = _table(size) if relative else ''
    if mixer.activation not in ('none', 'scaling'):
        activation = mixer.activation
        return _token_kernels(tokens, mixer.head_dims, selection, activation, table)
    view = _token_kernels(tokens, mixer.head_dims, selection, static=taps and f'{taps} on values')
    return replace(view, channels=f'{mixer.head_dims} -> {mixer.head_dims} (merged)')


@describes(SelfAttention)
def _describe_self_attention(mixer: SelfAttention, inputs: dict[str, Any]) -> Description:
    size = _input(inputs).shape[2:]
    head_dim = _input(inputs).shape[1] // mixer.attention.num_heads
    return _token_kernels(size.numel(), head_dim, f'all of {_size(size)} (hard)', 'softmax')


@describes(Linformer)
def _describe_linformer(mixer: Linformer, inputs: dict[str, Any]) -> Description:
    _, channels, height, width = _input(inputs).shape
    kept = len(mixer.mix_keys)
    selection = f'{kept} learned mixtures of {_size([mixer.pool.size] * 2)} averages (soft)'
    view = _token_kernels(kept, channels // mixer.attention.num_heads, selection, 'softmax')
    return replace(view, bank=_bank(height * width))


@describes(DynamicConv)
def _describe_dynamic_conv(mixer: DynamicConv, inputs: dict[str, Any]) -> Description:
    kernels, _, *size = mixer.bank.shape
    return Description(
        f'{kernels} learned kernels',
        'a mixture for each image (soft)',
        f'depthwise {_size(size)}',
        '1',
    )


@describes(DynamicDepthwiseConv)
def _describe_depthwise_conv(mixer: DynamicDepthwiseConv, inputs: dict[str, Any]) -> Description:
    source = 'the pooled input' if mixer.homogeneous else 'the feature at each position'
    size = _size([mixer.kernel_size] * 2)
    return Description(f'none: a kernel made from {source}', 'none', f'depthwise {size}', '1')


@describes(DMA)
def _describe_dma(mixer: DMA, inputs: dict[str, Any]) -> Description:
    taps = ', '.join(
        f'{_size(branch.kernel_size)} dilation {branch.dilation[0]}' for branch in mixer.branches
    )
    if mixer.gate is None:
        return Description('learned kernels', 'all, summed', f'depthwise {taps}')
    return Description(
        'one kernel from the pooled input',
        'the one (the gate)',
        'depthwise 1x1',
        '1',
        static=f'depthwise taps: {taps}',
    )


@describes('mmdmformer.mixers.acmix.ACmixOperator')
def _describe_acmix(mixer: nn.Module, inputs: dict[str, Any]) -> Description:
    """One projection serves attention, whose kernels are dynamic, and a static convolution."""
    shifts = ''
    if mixer.convolution is not None:
        side = round(mixer.convolution.mixing.out_channels**0.5)
        shifts = f'mixing and shifting of maps, {side}x{side}'
    if mixer.attention is None:
        return Description('learned kernels', 'all, summed', shifts)
    attention = mixer.attention
    window = getattr(attention, 'window', None)
    selection = 'all (hard)' if window is None else f'all of {window}x{window} (hard)'
    if hasattr(attention, 'weights'):  # patch-wise: a network makes the taps of the second one
        bank, kernel = 'taps from a network on the window', f'depthwise {window}x{window}, shared'
    else:
        bank, kernel = 'keys and values of tokens', 'standard 1x1'
    return Description(bank, selection, kernel, static=shifts)


def _token_kernels(
    tokens: int, channels: int, selection: str, activation: str = '', static: str = ''
) -> Description:
    path = f'{channels} -> {tokens} -> {channels}'
    return Description(_bank(tokens), selection, 'standard 1x1', path, activation, static)


def _bank(tokens: int) -> str:
    return f'keys and values of {tokens} tokens'


def _in_window(size: Sequence[int], extra_tokens: int, mask: Tensor | None) -> str:
    window = _size(size) + (f' + {extra_tokens}' if extra_tokens else '')
    return f'{"all" if mask is None else "one region"} of {window} (hard)'


def _table(size: Sequence[int]) -> str:
    return f'relative positions, {_size([2 * side - 1 for side in size])}'


def _kind(depthwise: bool) -> str:
    return 'depthwise' if depthwise else 'standard'


def _size(sides: Sequence[int]) -> str:
    return 'x'.join(map(str, sides))
