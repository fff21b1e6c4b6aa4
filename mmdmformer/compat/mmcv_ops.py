# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Serve ``mmcv.ops`` without a compiled mmcv.

``mmcv.ops`` takes its operators from the compiled module ``mmcv._ext``. Where that module is
missing or does not fit the installed torch, :func:`fill_gap` puts another module in its place:
it serves what :mod:`.operators` holds, and every other operator raises by its name when it is
called.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
import types
import warnings
from collections.abc import Callable

import torch

from .operators import OPERATORS
from .operators.common import how_to_build

EXT_NAME = 'mmcv._ext'
_NOT_AVAILABLE = 'not available'  # as mmcv's builds without CUDA answer


def fill_gap() -> None:
    """Make ``mmcv.ops`` importable where mmcv has no compiled operators, or none that load.

    The latter is a fault, of which one warning names the fix.
    """
    try:
        importlib.import_module(EXT_NAME)
    except ModuleNotFoundError as error:
        if error.name != EXT_NAME:
            raise
        _serve()
    except ImportError as error:
        _serve()
        _warn(' '.join(str(error).split()).rstrip('.'))


def replace_cpu_build() -> None:
    """Replace operators that were compiled without CUDA while torch sees a GPU, with a warning."""
    compiled = sys.modules[EXT_NAME]
    if (
        isinstance(compiled, _Bridge)
        or compiled.get_compiling_cuda_version() != _NOT_AVAILABLE
        or not torch.cuda.is_available()
    ):
        return
    bridge = _serve()
    # Modules of mmcv.ops that were imported before hold the compiled module itself.
    for name in dir(compiled):
        if not name.startswith('__'):
            setattr(compiled, name, getattr(bridge, name))
    _warn('built without CUDA')


def _serve() -> _Bridge:
    bridge = sys.modules[EXT_NAME] = vars(sys.modules['mmcv'])['_ext'] = _Bridge()
    return bridge


def _warn(fault: str) -> None:
    warnings.warn(
        f"mmcv's compiled operators do not work with torch {torch.__version__} ({fault}) and "
        f"give way to torchvision's; {how_to_build()}.",
        stacklevel=3,
    )


class _Bridge(types.ModuleType):
    """Stands in for the compiled module ``mmcv._ext``."""

    def __init__(self) -> None:
        super().__init__(EXT_NAME, 'Operators of mmcv served by torchvision and torch.')
        self.__spec__ = importlib.machinery.ModuleSpec(EXT_NAME, loader=None)
        self.__dict__.update(OPERATORS)
        # No compiler built it.
        self.get_compiler_version = self.get_compiling_cuda_version = lambda: _NOT_AVAILABLE

    def __getattr__(self, name: str) -> Callable:
        if name.startswith('__'):
            raise AttributeError(f'module {EXT_NAME!r} has no attribute {name!r}')
        return _refusal(name)


def _refusal(name: str) -> Callable:
    """A stand-in for operator ``name`` that raises when it is called."""

    def refuse(*args, **kwargs):
        raise NotImplementedError(
            f"mmcv operator '{name}' is not available, as no working compiled mmcv is installed; "
            f'{how_to_build()}.'
        )

    refuse.__name__ = refuse.__qualname__ = name
    return refuse
