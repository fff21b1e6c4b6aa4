# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Reading checkpoints without running code from them, and finding the weights in them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor

from ..compat.checkpoint import weights_only
from .safetensors_file import SUFFIX, load_from_safetensors

# Where training codes keep the weights; an exponential moving average comes first. (mmengine's EMA
# hook itself swaps the average into 'state_dict'.)
WEIGHT_CONTAINERS = ('state_dict_ema', 'model_ema', 'state_dict', 'model', 'ema_state_dict')

# mmengine compares what it calls prefixes as regular expressions, the last in the alphabet first.
CheckpointLoader.register_scheme(
    [rf'.*\{SUFFIX}$', rf'https?://.*\{SUFFIX}$'], load_from_safetensors, force=True
)


def read_checkpoint(
    source: str | Path, map_location: str = 'cpu', logger: str = 'silent'
) -> dict[str, Any]:
    """Read a checkpoint.

    Args:
        source (str | Path): File or URL; .safetensors and all that ``torch.save`` writes.
        map_location (str): Device to read it to. Defaults to 'cpu'.
        logger (str): Where mmengine says what it reads: 'current' or 'silent'. Defaults to
            'silent'.

    Returns:
        dict: Its content.

    Raises:
        CheckpointError: If it cannot be read, or would run code.
        FileNotFoundError: If there is no such file.
    """
    with weights_only(str(source)):
        return CheckpointLoader.load_checkpoint(str(source), map_location, logger)


def find_weights(content: Mapping) -> dict[str, Tensor]:
    """The tensors in a checkpoint's content, wherever its training code put them."""
    for key in WEIGHT_CONTAINERS:
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}


def without_wrappers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop what compiled, distributed and outer modules put in front of every name.

    Args:
        weights (Mapping[str, Tensor]): Weights by their names.

    Returns:
        dict[str, Tensor]: The same by shorter names.

    Examples:
        >>> list(without_wrappers({'module.model.stem.weight': None}))
        ['stem.weight']
    """
    wrappers = re.compile(r'^((module|model|_orig_mod)\.)+')
    return {wrappers.sub('', name): value for name, value in weights.items()}


def choose_weights(content: Mapping[str, Any], ema: bool | None) -> dict[str, Tensor]:
    """Pick the plain or the averaged weights of a checkpoint of mmengine or timm.

    Args:
        content (Mapping): The checkpoint's content.
        ema (bool, optional): Whether to take the averaged ones.

    Returns:
        dict[str, Tensor]: The weights.

    Raises:
        ValueError: If they are not there, or there are both and ``ema`` is
            None.

    Examples:
        >>> import torch
        >>> plain, averaged = torch.tensor(1), torch.tensor(2)
        >>> timm = dict(state_dict=dict(w=plain), state_dict_ema=dict(w=averaged))
        >>> mmengine = dict(state_dict=dict(w=averaged), ema_state_dict={'module.w': plain})
        >>> [choose_weights(content, ema=False)['w'].item() for content in (timm, mmengine)]
        [1, 1]
        >>> [choose_weights(content, ema=True)['w'].item() for content in (timm, mmengine)]
        [2, 2]
    """
    weights = find_weights(content)
    if not weights:
        raise ValueError('the checkpoint has no weights.')
    swapped = content.get('ema_state_dict')  # mmengine has the plain weights here
    beside = [key for key in ('state_dict_ema', 'model_ema') if key in content]
    if swapped is None and not beside:
        if ema:
            raise ValueError('the checkpoint has no averaged weights: leave --ema out.')
        return weights
    if ema is None:
        raise ValueError(
            'the checkpoint has plain and averaged weights: say --ema for the averaged ones, '
            'or --no-ema for the plain ones.'
        )
    if ema:
        return weights
    if swapped is None:
        return find_weights({k: v for k, v in content.items() if k not in beside})
    plain = {name.removeprefix('module.'): value for name, value in swapped.items()}
    return {name: plain.get(name, value) for name, value in weights.items()}
