# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Conversion of the names in the authors' Swin-ACmix checkpoints."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .reading import find_weights, without_wrappers

# What is computed, not learned.
LEFT_OUT = re.compile(r'attn_mask$|relative_position_index$')
RENAMED = (
    (r'^patch_embed\.proj\.', 'patch_embed.projection.'),
    (r'^layers\.', 'stages.'),
    (r'\.attn\.qkv\.', '.attn.acmix.projection.qkv.'),
    (r'\.attn\.proj\.', '.attn.acmix.attention.proj.'),
    (r'\.attn\.relative_', '.attn.acmix.attention.relative_'),
    (r'\.attn\.fc\.', '.attn.acmix.convolution.mixing.'),
    (r'\.attn\.dep_conv\.', '.attn.acmix.convolution.shift.'),
    (r'\.attn\.rate1$', '.attn.acmix.rates.alpha'),
    (r'\.attn\.rate2$', '.attn.acmix.rates.beta'),
    (r'\.mlp\.fc1\.', '.ffn.layers.0.0.'),
    (r'\.mlp\.fc2\.', '.ffn.layers.1.'),
    (r'^norm\.', 'norm3.'),
)


def from_authors(content: Mapping[str, Any]) -> dict[str, Any]:
    """Give a checkpoint that the authors released this package's names.

    Args:
        content (Mapping): The content of their file.

    Returns:
        dict: ``state_dict`` and an empty ``meta``.

    Raises:
        ValueError: If it is no checkpoint of Swin-ACmix.
    """
    return dict(meta={}, state_dict=rename_weights(without_wrappers(find_weights(content))))


def rename_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of a Swin-ACmix classifier that the authors released.

    The downsampling layers' inputs are reordered too: the authors put the four
    neighbors one after the other, mmpretrain their channels.

    Args:
        weights (Mapping[str, Tensor]): Weights by the authors' names.

    Returns:
        dict[str, Tensor]: Weights of a classifier of mmpretrain with
        :class:`~mmdmformer.SwinACmix` as its backbone and a ``LinearClsHead``.

    Raises:
        ValueError: If these are no weights of Swin-ACmix.

    Examples:
        >>> import torch
        >>> rename_weights({'layers.0.blocks.1.attn.rate1': torch.tensor([0.5])})
        {'backbone.stages.0.blocks.1.attn.acmix.rates.alpha': tensor([0.5000])}
    """
    if not any(name.endswith('.attn.rate1') for name in weights):
        raise ValueError(
            'the checkpoint has no tensor layers.*.blocks.*.attn.rate1: give a Swin-ACmix of the '
            "authors' own code."
        )
    converted = {}
    for name, value in weights.items():
        if LEFT_OUT.search(name):
            continue
        if name.startswith('head.'):
            converted[name.replace('head.', 'head.fc.', 1)] = value
            continue
        if '.downsample.' in name:
            value = _reorder_neighbors(value)
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        converted[f'backbone.{name}'] = value
    return converted


def _reorder_neighbors(value: Tensor) -> Tensor:
    # The authors' order of the neighbors is by column, mmpretrain's by row.
    value = value.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :]
    return value.transpose(-1, -2).flatten(-2)
