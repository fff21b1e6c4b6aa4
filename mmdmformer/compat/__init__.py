# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Support for different OpenMMLab stacks and torch versions, in this subpackage only."""

from . import environment
from .compiler import has_fused_convolutions, is_exporting
from .environment import require_toolbox

__all__ = [
    'fill_gaps',
    'has_fused_convolutions',
    'is_exporting',
    'prepare',
    'require_toolbox',
]


def fill_gaps() -> None:
    """Let the installed stack find what it lacks, and replace nothing.

    Checks the environment, makes ``mmcv.ops`` importable where mmcv brings no compiled operators
    that load, and tells torch what mmengine's own checkpoints hold.

    Raises:
        ImportError: When the environment cannot work, naming the fix.
    """
    environment.check()
    from . import checkpoint, mmcv_ops  # these import torch, which was checked just now

    mmcv_ops.fill_gap()
    checkpoint.declare_records()


def prepare() -> None:
    """Replace what works otherwise in the installed stack; again changes nothing.

    What is replaced:

    - ``mmengine.runner.CheckpointLoader.load_checkpoint``, so that nothing mmengine loads can run
      code that it brings along;
    - on a GPU, the operators of an mmcv that was compiled without CUDA;
    - beside transformers 5, which mmpretrain's networks for images and text do not know, the flag
      by which mmpretrain imports them;
    - without setuptools' pkg_resources, three functions of ``mmengine.utils`` that need it, so that
      ``_base_ = 'mmdet::...'`` is found.
    """
    from . import checkpoint, mmcv_ops, packages

    checkpoint.guard_loader()
    mmcv_ops.replace_cpu_build()
    environment.leave_out_broken_multimodal_networks()
    packages.serve_lookup()
