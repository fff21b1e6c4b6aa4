# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Find installed packages for mmengine, which uses setuptools' pkg_resources for this.

setuptools has dropped pkg_resources since version 82. Where it is missing, mmengine 0.10.7 ends in
a ModuleNotFoundError at ``_base_ = 'mmdet::...'``, ``mmengine.hub`` and ``is_installed``; its
maintained fork does not.
"""

import os
import sys
from importlib import metadata
from importlib.util import find_spec

from . import environment

_MODULES = (
    'mmengine.utils.package_utils',
    'mmengine.utils',
    'mmengine.config.config',
    'mmengine.hub.hub',
)


def serve_lookup() -> None:
    """Let mmengine look packages up by Python's own records where pkg_resources is missing."""
    if environment._version('mmengine') is None or find_spec('pkg_resources') is not None:
        return
    import mmengine.hub  # noqa: F401  (holds the functions, as the others do)

    for module in map(sys.modules.get, _MODULES):
        for function in (is_installed, get_installed_path, package2module):
            if hasattr(module, function.__name__):
                setattr(module, function.__name__, function)


def is_installed(package: str) -> bool:
    """Tell whether a package is installed.

    Args:
        package (str): What pip or what Python calls it.

    Returns:
        bool: Whether either of them knows it.
    """
    if environment._version(package) is not None:
        return True
    spec = find_spec(package)
    return spec is not None and spec.origin is not None


def get_installed_path(package: str) -> str:
    """Find the folder of a package.

    Args:
        package (str): What pip or what Python calls it.

    Returns:
        str: Its folder.

    Raises:
        ModuleNotFoundError: If it is not installed.
        RuntimeError: If it is a namespace without a directory of its own.
    """
    spec = find_spec(package if find_spec(package) is not None else package2module(package))
    if spec is None:
        raise ModuleNotFoundError(f'{package} is not installed.')
    if spec.origin is None:
        raise RuntimeError(f'{package} is a namespace package, which has no directory of its own.')
    return os.path.dirname(spec.origin)


def package2module(package: str) -> str:
    """Find what Python calls a package.

    Args:
        package (str): What pip calls it.

    Returns:
        str: The name of its first module.

    Raises:
        ModuleNotFoundError: If it is not installed.
        ValueError: If it does not tell.
    """
    try:
        names = metadata.distribution(package).read_text('top_level.txt')
    except metadata.PackageNotFoundError as error:
        raise ModuleNotFoundError(f'{package} is not installed.') from error
    if not names:
        raise ValueError(f'The package {package} does not tell the names of its modules.')
    return names.split('\n')[0]
