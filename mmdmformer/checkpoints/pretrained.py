# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Loading of pretrained backbones that cannot fail silently."""

import logging
from collections import Counter
from collections.abc import Collection, Mapping

import torch.nn as nn
from mmengine.logging import print_log
from mmengine.model import BaseModule, update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor

from .reading import find_weights, read_checkpoint


@WEIGHT_INITIALIZERS.register_module(name='CheckedPretrained')
class CheckedPretrainedInit:
    """Initialize a module from a checkpoint, or say why it does not fit.

    The prefix of the module's names in the checkpoint (``backbone.``,
    ``module.backbone.``, none, ...) is found by comparing names. Unless every
    tensor of the module is found with its shape, and nothing under the prefix
    is left over, an error lists the difference. Only tables of positions that
    the module itself interpolates when it is loaded may be of another size.

    Args:
        checkpoint (str, optional): File or URL. None trains from scratch, and
            says so in the log. Defaults to None.
        prefix (str, optional): Prefix of the names in the checkpoint, with or
            without its dot. None finds it. Defaults to None.
        allow_partial (bool): Whether to load what fits, list the rest in the
            log, and go on. Defaults to False.
        map_location (str): Device to load to. Defaults to 'cpu'.

    Examples:
        >>> backbone = dict(
        ...     type='DMFormer',
        ...     init_cfg=dict(type='CheckedPretrained', checkpoint='dmformer-s.pth'))
    """

    def __init__(
        self,
        checkpoint: str | None = None,
        prefix: str | None = None,
        allow_partial: bool = False,
        map_location: str = 'cpu',
    ) -> None:
        self.checkpoint = checkpoint
        self.prefix = prefix
        self.allow_partial = allow_partial
        self.map_location = map_location

    def __call__(self, module: nn.Module) -> None:
        """Load the checkpoint into ``module``.

        Args:
            module (nn.Module): Usually a backbone.

        Raises:
            RuntimeError: If the checkpoint does not fit and ``allow_partial``
                is False, if it holds the module several times, or if it holds
                none of it.
        """
        name = type(module).__name__
        if not self.checkpoint:
            print_log(
                f'{name} trains from scratch: no pretrained checkpoint is given.',
                logger='current',
                level=logging.WARNING,
            )
            return
        # mmengine would initialize the children afterwards, over the loaded weights.
        for child in module.children():
            if isinstance(child, BaseModule) and not child.is_init:
                child.init_weights()
        weights = _adapt(module, self._read_weights(module, self.checkpoint))
        difference = _describe_difference(module.state_dict(), weights)
        if difference and not self.allow_partial:
            raise RuntimeError(
                f'{self.checkpoint} does not fit {name}: {difference}. Take the checkpoint of the '
                'same architecture, or set allow_partial=True to load what fits.'
            )
        expected = module.state_dict()
        fitting = {k: v for k, v in weights.items() if _fits(expected, k, v)}
        module.load_state_dict(fitting, strict=False)
        summary = (
            f'Loaded {len(fitting)} of {len(expected)} tensors of {name} from {self.checkpoint}.'
        )
        print_log(summary, logger='current')
        if difference:
            print_log(
                f'{self.checkpoint} fits {name} in part only: {difference}.',
                logger='current',
                level=logging.WARNING,
            )
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=f'Loaded from {self.checkpoint}')

    def _read_weights(self, module: nn.Module, checkpoint: str) -> dict[str, Tensor]:
        content = read_checkpoint(checkpoint, self.map_location, 'current')
        weights = find_weights(content)
        names = module.state_dict().keys()
        prefix = self.prefix if self.prefix is not None else self._find_prefix(names, weights)
        if prefix and not prefix.endswith('.'):
            prefix += '.'
        return {
            name.removeprefix(prefix): value
            for name, value in weights.items()
            if name.startswith(prefix)
        }

    def _find_prefix(self, names: Collection[str], weights: Mapping[str, Tensor]) -> str:
        ranking = _count_matches_by_prefix(names, weights).most_common(2)
        if not ranking:
            raise RuntimeError(
                f'{self.checkpoint} holds no tensor of this backbone: it has '
                f'{_list(sorted(weights))}; the backbone expects {_list(sorted(names))}.'
            )
        if len(ranking) == 2 and ranking[0][1] == ranking[1][1]:
            raise RuntimeError(
                f'{self.checkpoint} holds this backbone under both {ranking[0][0]!r} and '
                f"{ranking[1][0]!r}: choose one with init_cfg's prefix."
            )
        return ranking[0][0]


def _count_matches_by_prefix(names: Collection[str], keys: Collection[str]) -> Counter:
    counts: Counter = Counter()
    for key in keys:
        parts = key.split('.')
        for i in range(len(parts)):
            if '.'.join(parts[i:]) in names:
                counts[''.join(f'{part}.' for part in parts[:i])] += 1
    return counts


def _adapt(module: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights as the module's own hooks change them before it is loaded."""
    adapted = dict(weights)
    for name, part in module.named_modules():
        prefix = f'{name}.' if name else ''
        for hook in part._load_state_dict_pre_hooks.values():
            hook(adapted, prefix, {}, False, [], [], [])
    return adapted


def _fits(expected: Mapping[str, Tensor], name: str, value: Tensor) -> bool:
    return name in expected and expected[name].shape == value.shape


def _describe_difference(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    # Converted checkpoints often lack this counter, and no network's output depends on it.
    missing = [
        name
        for name in expected
        if name not in weights and not name.endswith('num_batches_tracked')
    ]
    unexpected = [name for name in weights if name not in expected]
    mismatched = [
        f'{name} {tuple(value.shape)} instead of {tuple(expected[name].shape)}'
        for name, value in weights.items()
        if name in expected and expected[name].shape != value.shape
    ]
    parts = {'missing': missing, 'unexpected': unexpected, 'of another shape': mismatched}
    return '; '.join(f'{what}: {_list(names)}' for what, names in parts.items() if names)


def _list(names: list[str], limit: int = 20) -> str:
    shown = ', '.join(names[:limit])
    return f'{shown} and {len(names) - limit} more' if len(names) > limit else shown
