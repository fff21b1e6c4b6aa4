# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""What goes wrong inside of a training process, as ``INJECT`` in its environment says.

A config names this module in its ``custom_imports``, and its hook in ``custom_hooks``. ``INJECT``
is ``MOMENT:COUNT:ACTION``: at the COUNT-th time of that moment in this process (``step``,
``validation``, ``writing``, ``renaming``, ``pointing``), do that (``kill``, ``term``, ``usr1``,
``stall``, ``fail``, ``nan``). ``INJECT_RANK`` limits it to one process of several.
``INJECT_FILE_SIZE`` limits files to so many bytes, as a full disk does.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import time
from pathlib import Path

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

_fsync, _replace = os.fsync, os.replace


@HOOKS.register_module()
class InjectionHook(Hook):
    """Injects one fault."""

    priority = 'VERY_LOW'  # a signal comes before the hook that looks for it

    def before_train(self, runner) -> None:
        """Wait for the moment."""
        self.moment, count, self.action = os.environ.get('INJECT', 'never:0:').split(':')
        self.left = int(count)
        if os.environ.get('INJECT_RANK', str(get_rank())) != str(get_rank()):
            self.moment = 'never'
        os.fsync, os.replace = self._sync, self._rename
        if 'INJECT_FILE_SIZE' in os.environ:
            size = int(os.environ['INJECT_FILE_SIZE'])
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        parameter = next(runner.model.parameters())
        parameter.register_hook(lambda gradient: self._at('step', gradient))

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Perhaps in the middle of a validation."""
        self._at('validation')

    def _sync(self, file: int) -> None:
        if self.moment == 'writing' and self.left == 1 and os.path.isfile(f'/proc/self/fd/{file}'):
            os.ftruncate(file, random.randrange(os.fstat(file).st_size))
        if not os.path.isdir(f'/proc/self/fd/{file}'):
            self._at('writing')
        _fsync(file)

    def _rename(self, source: str, target: str) -> None:
        self._at('renaming')
        _replace(source, target)
        self._at('pointing')

    def _at(self, moment: str, gradient: torch.Tensor | None = None) -> torch.Tensor | None:
        if moment != self.moment:
            return None
        self.left -= 1
        if self.left != 0:
            return None
        if self.action == 'nan':
            return gradient * float('nan')
        if self.action == 'fail':
            raise RuntimeError(f'process {get_rank()} broke')
        if self.action == 'stall':
            time.sleep(3600)
        if self.action == 'kill':
            os.kill(os.getpid(), signal.SIGKILL)
        # From outside, to data workers as well, as schedulers do.
        pid = os.getpid()
        children = Path(f'/proc/{pid}/task/{pid}/children').read_text().split()
        subprocess.run(['kill', f'-{self.action.upper()}', *children, str(pid)], check=True)
        return None
