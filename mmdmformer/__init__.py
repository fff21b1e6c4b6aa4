# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""DMFormer for image classification, object detection and semantic segmentation.

Importing this package registers the backbones in mmengine's root registry, from where mmpretrain,
mmdet and mmseg configs find them alike, and fills gaps of the installed OpenMMLab stack. It
replaces nothing: :func:`prepare` does, which a config asks for with ``mmdmformer.prepared``.
"""

from . import compat  # isort: skip  # must come first: it makes mmcv.ops importable

compat.fill_gaps()

from . import backbones, checkpoints, engine  # noqa: E402, F401
from .apis import get_model, list_models  # noqa: E402
from .compat import prepare  # noqa: E402
from .registry import TOKEN_MIXERS  # noqa: E402
from .version import __version__  # noqa: E402

__all__ = ['TOKEN_MIXERS', '__version__', 'get_model', 'list_models', 'prepare', *backbones.__all__]


def __getattr__(name: str) -> type:
    if name in backbones.__all__:
        return getattr(backbones, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
