# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The one place that knows which OpenMMLab stack and which torch are installed."""

from . import environment
from .compiler import has_fused_convolutions, is_exporting
from .environment import require_toolbox

__all__ = ['has_fused_convolutions', 'is_exporting', 'prepare', 'require_toolbox']


def prepare() -> None:
    """Prepare the installed stack for training and testing.

    Checks the environment, makes ``mmcv.ops`` importable without compiled operators, and lets
    mmengine load checkpoints without running code that they hold. Calling it again does nothing.

    Raises:
        ImportError: When the environment cannot work, naming the cure.
    """
    environment.check()
    from . import checkpoint, mmcv_ops  # these import torch, which was checked just now

    mmcv_ops.install()
    checkpoint.install()
