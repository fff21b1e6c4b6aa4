# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""A scheduler's warning: save a checkpoint, and end with the code that asks to be started again."""

from __future__ import annotations

import os
import signal
import threading
import weakref

import torch
from mmengine.dist import all_reduce, barrier, is_main_process
from mmengine.hooks import Hook

from .checkpoint_hook import SafeCheckpointHook

EXIT_CODE = 75  # "temporary failure, try again later" of sysexits.h
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_listening: weakref.WeakSet[SignalHook] = weakref.WeakSet()


class Interrupted(Exception):
    """Training ended early, as a signal asked; the message says where to go on."""


class SignalHook(Hook):
    """On SIGTERM or SIGUSR1 saves a checkpoint after the current iteration, and ends training.

    A signal to one process ends all of a distributed run at the same iteration. During validation
    the run ends at once if the last iteration is saved already, and otherwise after it.
    """

    priority = 'LOWEST'  # after all hooks that belong to an iteration

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._replaced: dict = {}
        self._saved = -1  # the iteration of the newest checkpoint

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

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Save and end if a signal came."""
        if self._anyone_received():
            self._end(runner, runner.iter + 1)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Remember what is saved."""
        self._saved = checkpoint['meta']['iter']

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """End if a signal came and nothing is to be saved."""
        # The first process alone knows, and the launcher ends the others with it.
        if self.received and is_main_process() and self._saved == runner.iter:
            raise Interrupted(self._message(runner, runner.iter))

    def after_val_epoch(self, runner, metrics=None) -> None:
        """Save and end if a signal came."""
        if self._anyone_received():
            self._end(runner, runner.iter)

    def _anyone_received(self) -> bool:
        received = torch.tensor(int(self.received or 0))
        all_reduce(received, 'max')
        if received:
            self.received = signal.Signals(int(received))
        return bool(received)

    def _end(self, runner, iteration: int) -> None:
        hooks = [hook for hook in runner.hooks if isinstance(hook, SafeCheckpointHook)]
        if hooks and self._saved != iteration:
            hooks[0].save_interrupted(runner, runner.epoch, iteration)
        barrier()  # nobody leaves before the checkpoint is written
        raise Interrupted(self._message(runner, iteration))

    def _message(self, runner, iteration: int) -> str:
        return (
            f'interrupted by {self.received.name} after iteration {iteration}: start again with '
            f'--resume to go on from the last checkpoint in {runner.work_dir}.'
        )


def _stop_listening_in_child() -> None:
    """A process that others fork (a metric's pool, a logger) must end when it is told to."""
    for hook in list(_listening):
        hook.stop_listening()


os.register_at_fork(after_in_child=_stop_listening_in_child)
