# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Packages that only some of the formats need."""

import importlib
from types import ModuleType

# By package; the others are in runtimes.
_EXTRAS = dict(onnx='optional', onnxruntime='optional', executorch='executorch')


def need(package: str) -> ModuleType:
    """Import a package, or say how to get it.

    Args:
        package (str): Its name.

    Returns:
        ModuleType: The package.

    Raises:
        ImportError: If it is not installed, with the fix.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        extra = _EXTRAS.get(package.partition('.')[0], 'runtimes')
        raise ImportError(
            f'{package} is needed and not installed: pip install -r requirements/{extra}.txt, or '
            f'the extra mmdmformer[{extra}].'
        ) from error
