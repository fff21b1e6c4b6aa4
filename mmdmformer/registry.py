# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The registry of token mixers; backbones, hooks and data sets are in mmengine's own registries."""

import difflib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from mmengine.registry import Registry
from torch import nn


def type_name(kind: str | type) -> str:
    """The name of a class as configs write it: as text, by its path, or as the class itself.

    Args:
        kind (str | type): A config's ``type``.

    Returns:
        str: The name alone.

    Examples:
        >>> type_name('mmdet.RetinaNet'), type_name(nn.Linear)
        ('RetinaNet', 'Linear')
    """
    return kind.rpartition('.')[2] if isinstance(kind, str) else getattr(kind, '__name__', '')


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """The end of a sentence on a word that is none of those that are known.

    Args:
        word (str): What was written.
        choices (Iterable[str]): What could have been.

    Returns:
        str: The closest of them or, where none is close, all of a few.

    Examples:
        >>> did_you_mean('tny', ['tiny', 'small']), did_you_mean('huge', ['tiny', 'small'])
        ('did you mean tiny?', 'choose one of tiny, small.')
    """
    choices = list(choices)
    close = difflib.get_close_matches(word, choices, n=1)
    if close:
        return f'did you mean {close[0]}?'
    few = 0 < len(choices) <= 20
    return f'choose one of {", ".join(choices)}.' if few else 'check the name.'


def build_token_mixer(cfg: Mapping[str, Any], registry: Registry, **defaults: Any) -> nn.Module:
    """Build a token mixer from its config.

    Unlike mmengine's default, the scope of the running toolbox plays no part: the mixers of this
    registry are the same in all of them, and the layers in a mixer are still found in that scope.

    Args:
        cfg (Mapping): Name or class of the mixer as ``type``, and its arguments.
        registry (Registry): Where the name is looked up.
        **defaults: What the network gives: ``channels`` and ``norm_cfg``, each only to a mixer
            that has such an argument, and only where ``cfg`` does not give it.

    Returns:
        nn.Module: The mixer.

    Raises:
        KeyError: If there is no such mixer.

    Examples:
        >>> from mmdmformer import TOKEN_MIXERS
        >>> mixer = TOKEN_MIXERS.build(dict(type='DMA', gate=False), channels=16)
        >>> type(mixer).__name__, mixer.gate
        ('DMA', None)
    """
    arguments = dict(cfg)
    kind = arguments.pop('type', None)
    mixer = registry.get(kind) if isinstance(kind, str) else kind
    if mixer is None:
        hint = did_you_mean(str(kind), registry.module_dict)
        raise KeyError(f'mixer=dict(type={kind!r}) is not in the registry TOKEN_MIXERS: {hint}')
    taken = inspect.signature(mixer).parameters
    return mixer(**{name: defaults[name] for name in taken if name in defaults} | arguments)


TOKEN_MIXERS = Registry(
    'token mixer', build_func=build_token_mixer, scope='mmdmformer', locations=['mmdmformer.mixers']
)
