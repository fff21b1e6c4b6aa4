# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Going on: from the newest intact checkpoint, on the schedule that the config says."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook, ParamSchedulerHook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop

from ...checkpoints import check_intact, find_checkpoint, point_to

_PROGRESS = {'last_step', '_global_step', '_last_value', 'base_values', 'verbose'}


@HOOKS.register_module()
class ResumeHook(Hook):
    """Lets a run that is resumed go on from the newest intact checkpoint of its work folder.

    A checkpoint that is named is compared with its checksums, and refused if it is damaged. If
    the config's schedule is not the one that the checkpoint was trained on (more epochs, another
    length of an epoch, other milestones), the rates follow what the config says now, as if they had
    always done; mmengine would go on with the old schedule, whatever the config says.

    Examples:
        >>> default_hooks = dict(resume=dict(type='ResumeHook'))
    """

    priority = 'VERY_HIGH'

    def before_run(self, runner) -> None:
        """Choose the checkpoint, before mmengine does."""
        if runner._resume and runner._load_from is None:
            found = [find_checkpoint(runner.work_dir) if is_main_process() else None]
            broadcast_object_list(found)
            if found[0] is not None:
                runner._load_from = str(found[0])
                if is_main_process():
                    point_to(runner.work_dir, found[0])
        elif runner._load_from is not None and os.path.isfile(runner._load_from):
            check_intact(runner._load_from)
        if runner._resume and isinstance(runner.optim_wrapper, OptimWrapper | OptimWrapperDict):
            self._schedulers = [copy.deepcopy(s.state_dict()) for s in _schedulers(runner)]
            self._rates = [_rates(group) for group in _groups(runner)]

    def before_train(self, runner) -> None:
        """Follow the config's schedule if it is another one than the checkpoint's."""
        if not runner._resume or runner.iter == 0:
            return
        schedulers = list(_schedulers(runner))
        changed = [
            _constants(now.state_dict()) != _constants(planned)
            for now, planned in zip(schedulers, self._schedulers, strict=True)
        ]
        if not any(changed):
            return
        for scheduler, planned in zip(schedulers, self._schedulers, strict=True):
            scheduler.load_state_dict(planned)
        for group, rates in zip(_groups(runner), self._rates, strict=True):
            group.update(rates)
        _step_through(runner)
        runner.logger.warning(
            'The schedule of the config is not the one that the checkpoint was trained on: the '
            f'learning rate follows that of the config now, {next(_groups(runner))["lr"]:g} after '
            f'iteration {runner.iter}.'
        )


def _step_through(runner) -> None:
    """Step the schedulers as often as training did, in the order of mmengine's hook."""
    hook, epoch_length = ParamSchedulerHook(), len(runner.train_dataloader)
    by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
    for iteration in range(runner.iter):
        hook.after_train_iter(runner, iteration)
        if by_epoch and (iteration + 1) % epoch_length == 0:
            hook.after_train_epoch(runner)


def _schedulers(runner) -> Iterator[Any]:
    schedulers = runner.param_schedulers or []
    for each in schedulers.values() if isinstance(schedulers, dict) else [schedulers]:
        yield from each


def _groups(runner) -> Iterator[dict]:
    wrapper = runner.optim_wrapper
    for each in wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]:
        yield from each.optimizer.param_groups


def _rates(group: dict) -> dict:
    """What schedulers may set in a group of parameters, and what they begin from."""
    return {
        k: copy.copy(v)
        for k, v in group.items()
        if k in ('lr', 'momentum', 'betas') or k.startswith('initial_')
    }


def _constants(state: dict) -> dict:
    """What a scheduler is told by the config; functions are not compared."""
    return {k: v for k, v in state.items() if k not in _PROGRESS and not callable(v)}
