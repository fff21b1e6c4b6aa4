# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Checkpoints of classifiers under timm's names and under mmpretrain's.

mmpretrain's classifiers have ``backbone.*`` and ``head.fc.*``; timm's models have the backbone's
own names and ``head.fc.*``. Where the weights are averaged in training, mmengine has the average in
``state_dict`` and the plain weights in ``ema_state_dict``, with a counter; timm has the plain ones
in ``state_dict`` and the average in ``state_dict_ema``.
"""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from .reading import find_weights, without_wrappers

BACKBONE, HEAD = 'backbone.', 'head.fc.'
# The first parts of all names in the networks here.
_PARTS = {
    *('stem', 'stages', 'conv1', 'bn1', 'layer1', 'layer2', 'layer3', 'layer4'),
    *('patch_embed', 'layers', 'cls_token', 'pos_embed', 'absolute_pos_embed', 'ln1', 'pre_norm'),
    *('norm0', 'norm1', 'norm2', 'norm3'),
}
_AVERAGED = 'module.'  # mmengine's prefix in ema_state_dict
_KEPT = 'meta', 'arch', 'epoch'  # beside the weights, where they are


def exchange_names(content: Mapping[str, Any]) -> dict[str, Any]:
    """Give a classifier's checkpoint the other library's names.

    Only weights and their averages are kept, no state of an optimizer.

    Args:
        content (Mapping): A checkpoint's content; its names tell which library's they are.

    Returns:
        dict: The content for the other library.

    Raises:
        ValueError: If a name belongs to no classifier here.
    """
    style = names_of(without_wrappers(find_weights(content)))
    converted = to_timm(content) if style == 'mmpretrain' else to_mmpretrain(content)
    return converted | {key: content[key] for key in _KEPT if key in content}


def names_of(names: Collection[str]) -> str:
    """Tell whose names these are.

    Args:
        names (Collection[str]): All names of a classifier's weights.

    Returns:
        str: ``'timm'`` or ``'mmpretrain'``.

    Raises:
        ValueError: If a name belongs to neither, or to no classifier here.

    Examples:
        >>> names_of(['backbone.stem.0.weight', 'head.fc.weight'])
        'mmpretrain'
        >>> names_of(['stem.0.weight', 'head.fc.weight'])
        'timm'
    """
    style = 'mmpretrain' if any(name.startswith(BACKBONE) for name in names) else 'timm'
    prefix = BACKBONE if style == 'mmpretrain' else ''
    unknown = [
        name
        for name in names
        if not name.startswith(HEAD)
        and not (name.startswith(prefix) and name.removeprefix(prefix).split('.')[0] in _PARTS)
    ]
    if unknown or not names:
        what = f'has {", ".join(unknown[:5])}' if unknown else 'has no weights'
        raise ValueError(
            f'the checkpoint {what}, which no classifier of mmdmformer has: give one with '
            f'{BACKBONE}* and {HEAD}* (mmpretrain), or with the bare names of a backbone and '
            f'{HEAD}* (timm).'
        )
    return style


def to_timm(content: Mapping[str, Any]) -> dict[str, Any]:
    """Rename what mmengine saves of a classifier of mmpretrain.

    Args:
        content (Mapping): A checkpoint's content.

    Returns:
        dict: ``state_dict``, and where there are averages ``state_dict_ema``.
    """
    weights = _strip_backbone(without_wrappers(find_weights(content)))
    swapped = content.get('ema_state_dict')
    if swapped is None:
        return dict(state_dict=weights)
    plain = {
        name.removeprefix(_AVERAGED): value
        for name, value in swapped.items()
        if name.startswith(_AVERAGED)
    }
    converted = dict(state_dict=weights | _strip_backbone(plain), state_dict_ema=weights)
    # timm has no counter; it serves the way back.
    return converted | dict(ema_steps=swapped.get('steps', torch.tensor(0)))


def to_mmpretrain(content: Mapping[str, Any]) -> dict[str, Any]:
    """Rename what timm saves of a classifier here.

    Args:
        content (Mapping): A checkpoint's content, or the weights alone.

    Returns:
        dict: ``state_dict``, and where there are averages ``ema_state_dict``
        with the plain weights, as mmengine has it.
    """
    weights = _add_backbone(find_weights(content))
    if not any(isinstance(content.get(key), Mapping) for key in ('state_dict_ema', 'model_ema')):
        return dict(state_dict=weights)
    plain = _add_backbone(content.get('state_dict') or content['model'])
    swapped = {_AVERAGED + name: value for name, value in plain.items()}
    steps = content.get('ema_steps', torch.tensor(0))
    return dict(state_dict=weights, ema_state_dict=dict(steps=steps, **swapped))


def _strip_backbone(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(BACKBONE): value for name, value in weights.items()}


def _add_backbone(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name if name.startswith(HEAD) else BACKBONE + name: value
        for name, value in without_wrappers(weights).items()
    }
