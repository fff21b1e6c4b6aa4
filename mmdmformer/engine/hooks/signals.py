# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Handling of a scheduler's signal: save a checkpoint, and exit with a code for a restart."""

from __future__ import annotations

import os
import signal
import sys
import threading
import weakref
from typing import NoReturn

import torch
from mmengine.dist import all_reduce, barrier, broadcast_object_list, is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS
from torch.utils.data import DataLoader

from ..accumulation import open_windows
from ..runner_parts import built_dataloaders
from ..sampling import protect_workers

EXIT_CODE = 75  # "temporary failure, try again later" of sysexits.h
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_listening: weakref.WeakSet[SignalHook] = weakref.WeakSet()
_held = threading.local()  # a mask of signals belongs to a thread


class Interrupted(SystemExit):
    """Training was ended by a signal; the process exits with :data:`EXIT_CODE`."""

    def __init__(self) -> None:
        super().__init__(EXIT_CODE)


@HOOKS.register_module()
class SignalHook(Hook):
    """Saves a checkpoint and ends training after the current iteration on SIGTERM or SIGUSR1.

    A signal to one process ends all of a distributed run at the same iteration, which is the last
    of a window of ``accumulative_counts``. During validation the run ends at once if the last
    iteration is saved already, and otherwise after it. The process then ends with code 75, which
    asks to be started again with ``--resume``. Workers that load data outlive the signals, as the
    step needs them.

    Examples:
        >>> default_hooks = dict(signals=dict(type='SignalHook'))
    """

    priority = 'LOWEST'  # after all hooks that belong to an iteration

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._replaced: dict = {}
        self._saved = -1  # the iteration of the newest checkpoint

    def prepare_dataloader(self, runner, dataloader: DataLoader, training: bool) -> None:
        """Protect the workers of a loader, before they start."""
        protect_workers(dataloader)

    def before_run(self, runner) -> None:
        """Protect the workers of all data."""
        for _, dataloader in built_dataloaders(runner):
            protect_workers(dataloader)

    def after_train(self, runner) -> None:
        """Listen no longer."""
        self.stop_listening()

    def before_train(self, runner) -> None:
        """Listen."""
        self._saved = runner.iter
        if threading.current_thread() is not threading.main_thread():
            return  # Python delivers signals to the main thread alone
        for number in SIGNALS:
            self._replaced[number] = signal.signal(number, self._receive)
        _listening.add(self)

    def _receive(self, number: int, _) -> None:
        self.received = signal.Signals(number)

    def stop_listening(self) -> None:
        """Give the signals their former meaning."""
        while self._replaced:
            signal.signal(*self._replaced.popitem())
        _listening.discard(self)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Save and end if a signal came."""
        if self._anyone_received() and not open_windows(runner):
            self._end(runner, runner.iter + 1)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Remember what is saved, unless it is the best, with weights alone."""
        if 'optimizer' in checkpoint:
            self._saved = checkpoint['meta']['iter']

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """End if a signal came and nothing is to be saved."""
        # The first process alone knows, and the launcher ends the others with it.
        if self.received and is_main_process() and self._saved == runner.iter:
            self._leave(runner, runner.iter)

    def after_val_epoch(self, runner, metrics=None) -> None:
        """Save and end if a signal came."""
        if self._anyone_received() and (self._is_saved(runner.iter) or not open_windows(runner)):
            self._end(runner, runner.iter)

    def _is_saved(self, iteration: int) -> bool:
        """What the first process alone knows."""
        saved = [self._saved == iteration]
        broadcast_object_list(saved)
        return saved[0]

    def _anyone_received(self) -> bool:
        received = torch.tensor(int(self.received or 0))
        all_reduce(received, 'max')
        if received:
            self.received = signal.Signals(int(received))
        return bool(received)

    def _end(self, runner, iteration: int) -> None:
        hooks = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]
        if hooks and not self._is_saved(iteration):
            save_interrupted(hooks[0], runner, iteration)
        barrier()  # nobody leaves before the checkpoint is written
        self._leave(runner, iteration)

    def _leave(self, runner, iteration: int) -> NoReturn:
        self.stop_listening()
        if is_main_process() and self.received:
            print(
                f'interrupted by {self.received.name} after iteration {iteration}: start again '
                f'with --resume to go on from the last checkpoint in {runner.work_dir}.',
                file=sys.stderr,
            )
        raise Interrupted


def save_interrupted(hook: CheckpointHook, runner, iteration: int) -> None:
    """Save what a run that is about to end needs to go on, within an epoch as well."""
    step = f'{runner.epoch}_iter_{iteration}' if hook.by_epoch else iteration
    hook._save_checkpoint_with_step(runner, step, dict(epoch=runner.epoch, iter=iteration))


def _hold_signals() -> None:
    """Python forgets the signals that a new process receives before it can handle any."""
    _held.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS if _listening else ())


def _release_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _held.mask)


def _release_signals_in_child() -> None:
    """A process that others fork (a metric's pool, a logger) must end when it is told to."""
    for hook in list(_listening):
        hook.stop_listening()
    _release_signals()


os.register_at_fork(
    before=_hold_signals,
    after_in_parent=_release_signals,
    after_in_child=_release_signals_in_child,
)
