# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""DMFormer, a convolutional backbone of the MetaFormer kind."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.registry import MODELS

from .metaformer import MetaFormer

# Arguments of the mixer that were arguments of the network.
_MOVED = ('expand_ratio', 'kernel_sizes', 'dilations', 'gate', 'residual', 'out_norm_act')


@MODELS.register_module()
class DMFormer(MetaFormer):
    """DMFormer (called ConvFormer in the paper's first version).

    A PyTorch implementation of `DMFormer: Closing the Gap between CNN and
    Vision Transformers <https://arxiv.org/abs/2209.07738>`_ (ICASSP 2023): the
    :class:`MetaFormer` of its sizes, with the token mixer
    :class:`~mmdmformer.mixers.DMA`. The paper's ablations are arguments of the
    mixer, such as ``mixer=dict(gate=False)``.

    Args:
        arch (str | dict): ``'small'`` (``'s'``), ``'large'`` (``'l'``),
            ``'nano'`` (ours, about 1 M parameters, for CPUs and tests), or a
            dict as for :class:`MetaFormer`. Defaults to 'small'.
        in_channels (int): Channels of the image. Defaults to 3.
        mixer (dict | Sequence[dict]): Config of the token mixer, one for all
            stages or one for each; its ``type`` is DMA where none is given.
            Defaults to ``dict(type='DMA')``.
        **options: Further arguments of :class:`MetaFormer`. The mixer's
            arguments ``expand_ratio``, ``kernel_sizes``, ``dilations``,
            ``gate``, ``residual`` and ``out_norm_act`` are taken as well,
            which is deprecated.

    Raises:
        ValueError: If an argument is out of range; the message says what is
            possible.

    Examples:
        >>> import torch
        >>> from mmdmformer import DMFormer
        >>> model = DMFormer('nano', out_indices=(0, 1, 2, 3)).eval()
        >>> for feature in model(torch.rand(1, 3, 64, 96)):
        ...     print(tuple(feature.shape))
        (1, 16, 16, 24)
        (1, 32, 8, 12)
        (1, 80, 4, 6)
        (1, 128, 2, 3)
    """

    arch_zoo = {
        **dict.fromkeys(
            ['s', 'small'],
            dict(embed_dims=(64, 128, 320, 512), depths=(2, 2, 6, 2), ffn_ratios=(8, 8, 4, 4)),
        ),
        **dict.fromkeys(
            ['l', 'large'],
            dict(embed_dims=(64, 128, 320, 512), depths=(3, 3, 12, 3), ffn_ratios=(8, 8, 4, 4)),
        ),
        'nano': dict(embed_dims=(16, 32, 80, 128), depths=(1, 1, 2, 1), ffn_ratios=(8, 8, 4, 4)),
    }

    def __init__(
        self,
        arch: str | dict = 'small',
        in_channels: int = 3,
        mixer: dict | Sequence[dict] = dict(type='DMA'),
        **options: Any,
    ) -> None:
        moved = {name: options.pop(name) for name in _MOVED if name in options}
        if moved:
            warnings.warn(
                f'DMFormer({", ".join(moved)}) is deprecated: give mixer=dict({_spell(moved)}).',
                DeprecationWarning,
                stacklevel=2,
            )
        defaults = dict(type='DMA', **moved)
        if isinstance(mixer, Mapping):
            mixer = {**defaults, **mixer}
        else:
            mixer = [{**defaults, **cfg} for cfg in mixer]
        super().__init__(arch, mixer, in_channels, **options)


def _spell(arguments: dict[str, Any]) -> str:
    return ', '.join(f'{name}={value!r}' for name, value in arguments.items())
