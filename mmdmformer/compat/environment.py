# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Report a broken environment at import, in one sentence with the fix.

This module imports nothing but the standard library, so that it can tell that torch is missing.
"""

from __future__ import annotations

import functools
import glob
import os
import re
import sys
from importlib import import_module, metadata
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec

MIN_PYTHON = (3, 10)
# The first release that loads checkpoints without running their code unless told otherwise.
MIN_TORCH = (2, 6)
KNOWN_GOOD_PAIR = 'torch==2.11.0 torchvision==0.26.0'
# What pip calls the toolboxes, in the official stack and in the maintained forks of it.
TOOLBOXES = {
    'mmdet': ('mmdet', 'onedl-mmdetection'),
    # The official mmseg needs ftfy and regex without saying so.
    'mmseg': ('mmsegmentation ftfy regex', 'onedl-mmsegmentation'),
    'mmpretrain': ('mmpretrain', 'onedl-mmpretrain'),
}


def check() -> None:
    """Check Python, torch, torchvision, mmengine and mmcv.

    Raises:
        ImportError: Naming the first thing that is wrong, and its fix.
    """
    _check_python()
    _check_torch()
    _check_torchvision()
    _check_mmengine()
    _check_mmcv()


def require_toolbox(scope: str | None) -> None:
    """Check that the toolbox of a config's ``default_scope`` is installed.

    Args:
        scope (str | None): ``'mmdet'``, ``'mmseg'`` or ``'mmpretrain'``; any other scope needs none
            of the three.

    Raises:
        ImportError: When it is not installed.

    Examples:
        >>> require_toolbox('mmengine')
    """
    if scope in TOOLBOXES and find_spec(scope) is None:
        official, fork = TOOLBOXES[scope]
        raise ImportError(
            f"The config's default_scope '{scope}' needs a toolbox that is not installed; install "
            f'it with `pip install {fork if _uses_forks() else official}`.'
        )


def leave_out_broken_multimodal_networks() -> None:
    """Keep mmpretrain importable beside transformers 5, which lacks names that its BLIP needs.

    mmpretrain 1.2 imports its networks for images and text wherever transformers is installed, in
    any version, and fails as a whole. Without transformers it registers placeholders instead.
    """
    try:
        major = int(metadata.version('transformers').partition('.')[0])
    except metadata.PackageNotFoundError:
        return
    if major >= 5 and find_spec('mmpretrain'):
        dependency = import_module('mmpretrain.utils.dependency')
        vars(dependency)['WITH_MULTIMODAL'] = False


@functools.lru_cache
def load_torchvision_operators() -> bool:
    """Load torchvision's compiled operators, without its slow Python package.

    Returns:
        bool: Whether torchvision is installed.

    Raises:
        ImportError: When torchvision does not fit the installed torch.
    """
    import torch

    spec = find_spec('torchvision')
    if spec is None:
        return False
    folder = glob.escape(os.path.dirname(spec.origin or ''))
    try:
        for suffix in EXTENSION_SUFFIXES:
            for library in glob.glob(os.path.join(folder, '_C*' + suffix)):
                torch.ops.load_library(library)
        if not hasattr(torch.ops.torchvision, 'nms'):
            import torchvision  # noqa: F401  (knows where else its library may be)
    except (ImportError, OSError, RuntimeError):
        pass
    if not hasattr(torch.ops.torchvision, 'nms'):
        raise ImportError(
            f'torchvision {_version("torchvision")} does not fit torch {torch.__version__} (its '
            'operator torchvision::nms does not load); install a pair that was built together, '
            f'for example with `pip install --force-reinstall {KNOWN_GOOD_PAIR}`.'
        )
    return True


def _check_python() -> None:
    if sys.version_info[:2] < MIN_PYTHON:
        raise ImportError(
            f'mmdmformer needs Python {_dotted(MIN_PYTHON)} or newer, not '
            f'{_dotted(sys.version_info[:3])}; make an environment with a newer one, for example '
            'with `uv venv --python 3.11`.'
        )


def _check_torch() -> None:
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != 'torch':
            raise
        raise ImportError(
            'mmdmformer needs torch, which is not installed; install it with '
            f'`pip install {KNOWN_GOOD_PAIR}`.'
        ) from None
    if _release(torch.__version__) < MIN_TORCH:
        raise ImportError(
            f'mmdmformer needs torch {_dotted(MIN_TORCH)} or newer, which loads checkpoints '
            f'without running their code, not {torch.__version__}; install a newer one, for '
            f'example with `pip install {KNOWN_GOOD_PAIR}`.'
        )


def _check_torchvision() -> None:
    """A torchvision that is installed must fit; DMFormer itself does not need one."""
    import torch

    for requirement in _requirements('torchvision'):
        pin = re.match(r'torch\s*\(?\s*(==|>=)\s*([\d.]+)', requirement)
        if pin is None:
            continue
        wanted, found = _release(pin[2]), _release(torch.__version__)
        if found < wanted or (pin[1] == '==' and found != wanted):
            raise ImportError(
                f'torchvision {_version("torchvision")} was built for torch {pin[2]} and does not '
                f'fit torch {torch.__version__}; install a pair that was built together, for '
                f'example with `pip install {KNOWN_GOOD_PAIR}`.'
            )
    load_torchvision_operators()


def _check_mmengine() -> None:
    if find_spec('mmengine') is None:
        raise ImportError(
            'mmdmformer needs mmengine, which is not installed; install it with '
            '`pip install mmengine`.'
        )


def _check_mmcv() -> None:
    if find_spec('mmcv') is None:
        package = 'onedl-mmcv' if _uses_forks() else 'mmcv-lite==2.1.0'
        raise ImportError(
            'mmdmformer needs mmcv, which is not installed; install it with '
            f'`pip install {package}`.'
        )


def _uses_forks() -> bool:
    return _version('onedl-mmengine') is not None


def _version(package: str) -> str | None:
    """The installed version of what pip calls ``package``, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _requirements(package: str) -> list[str]:
    try:
        return metadata.requires(package) or []
    except metadata.PackageNotFoundError:
        return []


def _release(version: str) -> tuple[int, ...]:
    """Major and minor number of a version.

    Examples:
        >>> _release('2.11.0a0+git1234')
        (2, 11)
    """
    return tuple(int(number) for number in re.findall(r'\d+', version)[:2])


def _dotted(numbers: tuple[int, ...]) -> str:
    return '.'.join(map(str, numbers))
