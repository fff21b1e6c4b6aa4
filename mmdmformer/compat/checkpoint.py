# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Load checkpoints through mmengine without running code from them.

A checkpoint is a pickle, and a pickle may name any function to be called while it is loaded.
torch's weights-only loading refuses all but weights, and with them what mmengine itself puts into
its checkpoints, the history of the losses and numpy's numbers, and the settings that other training
codes put there: timm's arguments, the yacs configs of Swin's and ACmix's authors.
:func:`declare_records` allows those by torch's public call. :func:`weights_only` allows exactly
those for the time that a file is loaded, whatever the environment and mmengine say, and refuses the
rest with a clear message; :func:`guard_loader` puts it around all that mmengine loads.
"""

from __future__ import annotations

import argparse
import functools
import os
import pickle
import re
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath, PureWindowsPath

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals

_FORCE = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
_FORCE_NOT = 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'
# mmengine's records hold functions of these classes, which pickle fetches with getattr.
_PICKLED_METHODS = {
    HistoryBuffer: ('min', 'max', 'mean', 'current'),
    OneCycleParamScheduler: ('_annealing_cos', '_annealing_linear'),
}


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read, or that would run code if it were."""


def declare_records() -> None:
    """Tell torch what mmengine's own checkpoints, timm's and Swin's hold beside weights."""
    add_safe_globals(_own_globals())


class Record:
    """What stands in for an allowed class: a mapping, so that none of the class's code runs."""

    def __new__(cls, *args):
        """The mapping that torch fills, whatever the class would be called with."""
        return OrderedDict()


def allow_records(names: Iterable[str]) -> None:
    """Read objects of other classes in a checkpoint as mere records, without their code.

    Args:
        names (Iterable[str]): Of the classes, as an error has named them, such as
            ``'omegaconf.dictconfig.DictConfig'``. They need not be installed.
    """
    add_safe_globals([(Record, name) for name in names])


def guard_loader() -> None:
    """Make every checkpoint that mmengine loads pass through :func:`weights_only`.

    Runner, initializers and inferencers of all toolboxes load through
    ``CheckpointLoader.load_checkpoint``, from files and from URLs alike.
    """
    loader = mmengine_checkpoint.CheckpointLoader
    if getattr(loader.load_checkpoint, 'weights_only', False):
        return
    original = loader.load_checkpoint.__func__

    @functools.wraps(original)
    def load_checkpoint(cls, filename, map_location=None, logger='current'):
        with weights_only(filename):
            return original(cls, filename, map_location, logger)

    loader.load_checkpoint = classmethod(load_checkpoint)
    loader.load_checkpoint.__func__.weights_only = True


@contextmanager
def weights_only(filename: str) -> Iterator[None]:
    """Let ``torch.load`` build weights and mmengine's own records only, whatever it is told.

    What the user has allowed with ``torch.serialization.add_safe_globals`` stays allowed.

    Args:
        filename (str): The file or URL to name in an error.

    Raises:
        CheckpointError: When ``torch.load`` refuses the file or cannot read it.
    """
    variables = {name: os.environ.pop(name, None) for name in (_FORCE, _FORCE_NOT)}
    allowed = get_safe_globals()
    # A fork of mmengine loads what was refused a second time, with its code, and allows getattr.
    second_chance = getattr(mmengine_checkpoint, '_safe_torch_load', None)
    if second_chance is not None:
        mmengine_checkpoint._safe_torch_load = torch.load
    os.environ[_FORCE] = '1'
    clear_safe_globals()
    add_safe_globals([entry for entry in allowed if entry is not getattr] + _own_globals())
    try:
        yield
    except (OSError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        # torch's advice on the device is as clear as ours could be.
        if not _raised_by_torch_load(error) or 'map_location' in str(error):
            raise
        raise CheckpointError(_explain(filename, error)) from None
    finally:
        clear_safe_globals()
        add_safe_globals(allowed)
        if second_chance is not None:
            mmengine_checkpoint._safe_torch_load = second_chance
        del os.environ[_FORCE]
        os.environ.update({name: value for name, value in variables.items() if value is not None})


def _own_globals() -> list[Callable | tuple[Callable, str]]:
    """What such checkpoints name, beside what torch allows."""
    scalar, array = np.float64(0).__reduce__()[0], np.empty(0).__reduce__()[0]
    # No object and no structured arrays: numpy trusts the flags in their pickled types.
    codes = set(np.typecodes['All']) - set('OV')
    return [
        bytes,
        np.ndarray,
        np.dtype,
        *{type(np.dtype(code)) for code in codes},
        # numpy 2 moved these; a file may come from either side.
        *((scalar, f'numpy.{core}.multiarray.scalar') for core in ('core', '_core')),
        *((array, f'numpy.{core}.multiarray._reconstruct') for core in ('core', '_core')),
        ConfigDict,
        argparse.Namespace,
        (OrderedDict, 'yacs.config.CfgNode'),  # torch fills no dictionaries of other types
        # Python 3.13 moved these.
        *(
            (kind, f'{module}.{kind.__name__.removeprefix("Pure")}')
            for kind in (PurePosixPath, PureWindowsPath)
            for module in ('pathlib', 'pathlib._local')
        ),
        *_PICKLED_METHODS,
        (_get_method, 'builtins.getattr'),
    ]


def _get_method(owner: type, name: str) -> Callable:
    """Stands in for ``getattr``, which opens a way to anything, unless the user has allowed it."""
    for known, names in _PICKLED_METHODS.items():
        if owner is known and name in names:
            return getattr(owner, name)
    if any(entry is getattr for entry in get_safe_globals()):
        return getattr(owner, name)
    raise pickle.UnpicklingError('Unsupported global: GLOBAL builtins.getattr')


def _raised_by_torch_load(error: Exception) -> bool:
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(frame.f_globals is vars(torch.serialization) for frame in frames)


def _explain(filename: str, error: Exception) -> str:
    """One sentence on why ``torch.load`` failed, and what to do."""
    # torch wraps the first, exact message of its unpickler in general advice.
    while isinstance(error.__context__, pickle.UnpicklingError):
        error = error.__context__
    reason = re.split(r'(?<=[.!?]) ', ' '.join(str(error).split()))[0].rstrip('.')
    name = re.search(r'GLOBAL (\S+)', reason)
    fix = 'use a file that holds only weights'
    if name is not None:
        reason = f"it calls for '{name[1]}'"
        fix += f', make one with tools/model_converters/publish_model.py --allow {name[1]}'
    if name is not None or re.match('Trying to|Can only', reason):
        return (
            f"Refused to load checkpoint '{filename}', which would run code that it brings along "
            f'({reason}); {fix}, or, if you trust whoever made it, allow what it calls for with '
            'torch.serialization.add_safe_globals.'
        )
    return (
        f"Cannot read checkpoint '{filename}' ({type(error).__name__}: {reason}); it is truncated "
        'or was not written by torch.save, so fetch or save it anew.'
    )
