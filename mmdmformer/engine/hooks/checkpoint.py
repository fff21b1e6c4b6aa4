# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Checkpoints that survive crashes and a full disk at any moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS

from ...checkpoints.writing import DurableLocalBackend
from ..accumulation import partial_gradient, restore_gradient, share_gradient
from ..errors import UsageError

_MAIN = 'mIoU'  # which mmseg measures after the accuracy of all pixels


class _KeepsFiles:
    """A file backend that collects the files to remove, instead of removing them."""

    def __init__(self, backend: LocalBackend) -> None:
        self.backend = backend
        self.outdated: list[str] = []

    def __getattr__(self, name: str):
        return getattr(self.backend, name)

    def remove(self, path: str) -> None:
        self.outdated.append(path)


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's hook, but no crash or full disk at any moment loses a checkpoint.

    A local checkpoint is written under another name first, and an old one is removed only when the
    new one is safe. Within a window of ``accumulative_counts`` it holds the gradient, and the run
    that is resumed goes on with it. Arguments are those of mmengine's hook; ``save_best='auto'`` is
    mIoU where it is measured, and the first metric elsewhere.

    Examples:
        >>> default_hooks = dict(checkpoint=dict(type='SafeCheckpointHook', save_best='auto'))
    """

    backend_args: dict | None
    file_backend: Any
    _gradient: dict | None = None  # of the checkpoint that is resumed

    def before_train(self, runner) -> None:
        """Choose where to write to, and go on with the gradient of a window."""
        chosen = self.backend_args is not None or self.file_client_args is not None
        if not chosen and '://' not in str(self.out_dir or runner.work_dir):
            self.backend_args = dict(backend=DurableLocalBackend.__name__)
        super().before_train(runner)
        restore_gradient(runner, self._gradient)
        self._gradient = None

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Keep the gradient until mmengine has counted the batches of its window."""
        if runner._resume:
            self._gradient = checkpoint.get('partial_gradient')

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Add the gradient to what can be resumed."""
        if 'optimizer' in checkpoint:
            gradient = partial_gradient(runner)
            if gradient is not None:
                checkpoint['partial_gradient'] = gradient

    def _save_checkpoint_with_step(self, runner, step: int | str, meta: dict) -> None:
        share_gradient(runner)
        with self._removing_later():
            super()._save_checkpoint_with_step(runner, step, meta)

    def _save_best_checkpoint(self, runner, metrics: dict) -> None:
        if not self.save_best or not self._find_measures(runner, metrics):
            return
        with self._removing_later():
            super()._save_best_checkpoint(runner, metrics)

    def _find_measures(self, runner, metrics: dict) -> bool:
        """Whether it is known what is best.

        Raises:
            UsageError: If a metric that ``save_best`` names was not measured.
        """
        if 'auto' in self.key_indicators:
            key = _MAIN if _MAIN in metrics else next(iter(metrics))
            try:
                self._init_rule(self.rules, [key])
            except ValueError:
                runner.logger.warning(
                    f'No best checkpoint is kept, as nothing says whether a greater {key} is '
                    'better: set rule of the checkpoint hook.'
                )
                return False
        for key in self.key_indicators:
            if key not in metrics:
                raise UsageError(
                    f'save_best={key!r} of the checkpoint hook is no metric of the validation, '
                    f'which measured {", ".join(metrics)}: name one of these, or auto.'
                )
        return True

    @contextmanager
    def _removing_later(self) -> Iterator[None]:
        if isinstance(self.file_backend, _KeepsFiles):  # saving the best saves the last as well
            yield
            return
        backend = self.file_backend
        self.file_backend = keeper = _KeepsFiles(backend)
        try:
            yield
        finally:
            self.file_backend = backend
        for path in set(keeper.outdated) - self._current():
            if backend.isfile(path):
                backend.remove(path)

    def _current(self) -> set[str]:
        """The files that have just been written, which may have replaced others of their name."""
        best = [getattr(self, 'best_ckpt_path', None)]
        best += getattr(self, 'best_ckpt_path_dict', {}).values()
        return {self.last_ckpt, *best}
