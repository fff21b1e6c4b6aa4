# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Resuming from the newest intact checkpoint, with the schedule of the config."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop

from ...checkpoints import check_intact, find_checkpoint, point_to
from ..runner_parts import optim_wrappers

_PROGRESS = {'last_step', '_global_step', '_last_value', 'base_values', 'verbose'}


@HOOKS.register_module()
class ResumeHook(Hook):
    """Resumes a run from the newest intact checkpoint in its work directory.

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
    schedulers, epoch_length = list(_schedulers(runner)), len(runner.train_dataloader)
    of_iterations = [s for s in schedulers if not s.by_epoch]
    of_epochs = [s for s in schedulers if s.by_epoch]
    by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
    with ExitStack() as merged:
        for wrapper in optim_wrappers(runner):
            merged.enter_context(_merged_groups(wrapper, schedulers))
        for iteration in range(1, runner.iter + 1):
            for scheduler in of_iterations:
                scheduler.step()
            if by_epoch and iteration % epoch_length == 0:
                for scheduler in of_epochs:
                    scheduler.step()


@contextmanager
def _merged_groups(wrapper: OptimWrapper, schedulers: list[Any]) -> Iterator[None]:
    """Step one group of parameters for all that have the same settings, often hundreds."""
    optimizer, groups = wrapper.optimizer, wrapper.optimizer.param_groups
    settings = [{k: v for k, v in group.items() if k != 'params'} for group in groups]
    firsts = [settings.index(each) for each in settings]
    kept = sorted(set(firsts))
    concerned = [s for s in schedulers if s.optimizer in (wrapper, optimizer)]
    # ReduceOnPlateau steps with metrics alone, and has no such values.
    bases = [(s, s.base_values) for s in concerned if hasattr(s, 'base_values')]
    for scheduler, values in bases:
        # Behind the groups the wrapper may have one of its own, for the log.
        scheduler.base_values = [*(values[i] for i in kept), *values[len(groups) :]]
    optimizer.param_groups = [groups[i] for i in kept]
    yield
    optimizer.param_groups = groups
    for group, first in zip(groups, firsts, strict=True):
        group.update(_rates(groups[first]))
    for scheduler, values in bases:
        scheduler.base_values = values
        scheduler._last_value = [
            group[scheduler.param_name] for group in scheduler.optimizer.param_groups
        ]


def _schedulers(runner) -> Iterator[Any]:
    schedulers = runner.param_schedulers or []
    for each in schedulers.values() if isinstance(schedulers, dict) else [schedulers]:
        yield from each


def _groups(runner) -> Iterator[dict]:
    for wrapper in optim_wrappers(runner):
        yield from wrapper.param_groups


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
