# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Optimizers with different weights for training and for evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..runner_parts import optim_wrappers


@HOOKS.register_module()
class OptimizerModeHook(Hook):
    """Switches the mode of optimizers for training and evaluation, as schedule-free ones need.

    Their weights are those of training only within an iteration. So the weights that are validated,
    averaged, saved and tested are those of evaluation, whenever that happens, and a resumed run
    goes on as one that was not interrupted. mmengine (0.10.7) does not call the modes, and such an
    optimizer refuses its first step. Batch norm statistics are those of the weights of training.

    Examples:
        >>> optim_wrapper = dict(optimizer=dict(type='schedulefree.AdamWScheduleFree', lr=2.5e-3))
        >>> custom_hooks = [dict(type='OptimizerModeHook')]
    """

    priority = 'HIGH'  # before what averages or saves the weights

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Take the weights of training."""
        for optimizer in _with_modes(runner):
            optimizer.train()

    def after_train_iter(
        self, runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        """Take the weights of evaluation."""
        for optimizer in _with_modes(runner):
            optimizer.eval()


def _with_modes(runner) -> Iterator[Any]:
    for each in optim_wrappers(runner):
        if hasattr(each.optimizer, 'train') and hasattr(each.optimizer, 'eval'):
            yield each.optimizer
