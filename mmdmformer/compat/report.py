# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""What is installed, in words."""

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

import torch

from . import environment, mmcv_ops

# By import name, what pip may call it.
DISTRIBUTIONS = {
    'torch': ('torch',),
    'torchvision': ('torchvision',),
    'mmengine': ('mmengine', 'onedl-mmengine'),
    'mmcv': ('mmcv', 'mmcv-lite', 'onedl-mmcv'),
    'mmpretrain': ('mmpretrain', 'onedl-mmpretrain'),
    'mmdet': ('mmdet', 'onedl-mmdetection'),
    'mmseg': ('mmsegmentation', 'onedl-mmsegmentation'),
}


def installed_versions() -> dict[str, str | None]:
    """The version of torch and of each OpenMMLab package, by import name.

    Returns:
        dict[str, str | None]: With the name of the distribution where it is not the import name,
        as ``'2.1.0 (mmcv-lite)'``; None where the package is not installed.
    """
    found = {}
    for name, distributions in DISTRIBUTIONS.items():
        versions = {d: environment._version(d) for d in distributions}
        words = [f'{v} ({d})' if d != name else v for d, v in versions.items() if v is not None]
        found[name] = ', '.join(words) or None
    return {**found, 'torch': torch.__version__}  # tells the builds of one version apart


def stack() -> str:
    """Which OpenMMLab stack is installed."""
    return 'the maintained forks (onedl)' if environment._uses_forks() else 'the official packages'


def operators() -> tuple[str, bool]:
    """Which code serves ``mmcv.ops``, after :func:`mmdmformer.compat.prepare`.

    Returns:
        tuple[str, bool]: In words, with the reason where it is not mmcv's own; and whether mmdet's
        detectors can run on it.
    """
    extension = sys.modules[mmcv_ops.EXT_NAME]
    if not isinstance(extension, mmcv_ops._Bridge):
        cuda = extension.get_compiling_cuda_version()
        return f"mmcv's own, compiled (CUDA {cuda})", True
    reason = _why_not_compiled()
    if environment.load_torchvision_operators():
        return f'served by torchvision and torch, as {reason}', True
    return f'broken: {reason}, and torchvision, which would serve instead, is not installed', False


def _why_not_compiled() -> str:
    """Why the bridge stands where mmcv's compiled operators would be."""
    spec = PathFinder.find_spec(mmcv_ops.EXT_NAME, sys.modules['mmcv'].__path__)
    if spec is None:
        return 'mmcv has no compiled operators'
    try:
        spec.loader.exec_module(module_from_spec(spec))
    except ImportError as error:
        fault = ' '.join(str(error).split()).rstrip('.')
        return f"mmcv's compiled operators do not work with torch {torch.__version__} ({fault})"
    return "mmcv's compiled operators were built without CUDA"
