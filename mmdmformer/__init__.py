# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""DMFormer for image classification, object detection and semantic segmentation.

Importing this package prepares the installed OpenMMLab stack (see
:mod:`mmdmformer.compat`) and registers the backbones in mmengine's root
registry, from where mmpretrain, mmdet and mmseg configs find them alike.
"""

from . import compat  # isort: skip  # must come first: it makes mmcv.ops importable

compat.prepare()

from . import engine  # noqa: E402, F401
from .backbones import DMFormer  # noqa: E402
from .version import __version__  # noqa: E402

__all__ = ['DMFormer', '__version__']
