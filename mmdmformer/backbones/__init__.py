# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The networks, in mmengine's root registry.

Those that build on a toolbox's own network are imported when they are first built or asked for, as
importing a toolbox takes seconds that nobody else should wait.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from mmengine.registry import MODELS

from .dmformer import DMFormer
from .metaformer import MetaFormer
from .san_acmix import SAN, SANACmix

# network: (its module here, the toolbox that it needs); the class registers itself with force=True
_ON_TOOLBOXES = {
    'BottleneckResNet': ('resnet_acmix', 'mmpretrain'),
    'ConvSwin': ('swin_acmix', 'mmpretrain'),
    'PVTACmix': ('pvt_acmix', 'mmdet'),
    'ResNetACmix': ('resnet_acmix', 'mmpretrain'),
    'SwinACmix': ('swin_acmix', 'mmpretrain'),
    'DynamicSwin': ('dynamic_swin', 'mmpretrain'),
    'DynamicViT': ('dynamic_vit', 'mmpretrain'),
}
_AVAILABLE = [name for name, (_, toolbox) in _ON_TOOLBOXES.items() if find_spec(toolbox)]

__all__ = ['DMFormer', 'MetaFormer', 'SAN', 'SANACmix', *_AVAILABLE]


def __getattr__(name: str) -> Any:
    if name not in _AVAILABLE:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'.{_ON_TOOLBOXES[name][0]}', __name__), name)


def toolbox_of(name: str) -> str:
    """The toolbox that a network builds on, whether or not it is installed."""
    return _ON_TOOLBOXES[name][1]


def _register(name: str) -> None:
    def build(*args, **kwargs):
        return __getattr__(name)(*args, **kwargs)

    MODELS.register_module(name=name, module=build)


for _name in _AVAILABLE:
    _register(_name)
