# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Description of what is installed."""

import dis
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

import torch

from . import environment, mmcv_ops
from .operators.common import how_to_build

__all__ = ['how_to_build', 'installed_versions', 'missing_operators', 'operators', 'stack']

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


def missing_operators(called: Callable) -> set[str]:
    """Which operators of mmcv a class or function may call that nothing here serves.

    Args:
        called (Callable): A class or a function. What it names of ``mmcv.ops`` is read as well.

    Returns:
        set[str]: Their names; empty where mmcv's own operators work.

    Examples:
        >>> from mmcv.ops import roi_align
        >>> missing_operators(roi_align)
        set()
    """
    extension = sys.modules[mmcv_ops.EXT_NAME]
    if not isinstance(extension, mmcv_ops._Bridge):
        return set()
    missing, seen, waiting = set(), set(), [called]
    while waiting:
        called = waiting.pop()
        called = getattr(called, '__self__', called)  # the class of an autograd function's apply
        if called in seen:
            continue
        seen.add(called)
        for value, attribute in _names_in(called):
            if value is extension and attribute not in mmcv_ops.OPERATORS:
                missing.add(attribute)
            elif callable(value):
                owner = getattr(value, '__self__', value)
                if getattr(owner, '__module__', '').startswith('mmcv.ops.'):
                    waiting.append(value)
    return missing


def _names_in(called: Callable) -> Iterator[tuple[object, str]]:
    """The globals that the code of a class or function names, and what follows each."""
    members = [called]
    if inspect.isclass(called):
        members = [member for base in called.__mro__ for member in vars(base).values()]
    for member in members:
        function = inspect.unwrap(getattr(member, '__func__', member))
        if not inspect.isfunction(function):
            continue
        codes = [function.__code__]
        for code in codes:
            codes += [const for const in code.co_consts if isinstance(const, types.CodeType)]
            instructions = list(dis.get_instructions(code))
            for name, after in zip(instructions, instructions[1:], strict=False):
                if name.opname == 'LOAD_GLOBAL':
                    yield function.__globals__.get(name.argval), after.argval


def _why_not_compiled() -> str:
    """Why the bridge stands where mmcv's compiled operators would be."""
    spec = PathFinder.find_spec(mmcv_ops.EXT_NAME, sys.modules['mmcv'].__path__)
    if spec is None or spec.loader is None:
        return 'mmcv has no compiled operators'
    try:
        spec.loader.exec_module(module_from_spec(spec))
    except ImportError as error:
        fault = ' '.join(str(error).split()).rstrip('.')
        return f"mmcv's compiled operators do not work with torch {torch.__version__} ({fault})"
    return "mmcv's compiled operators were built without CUDA"
