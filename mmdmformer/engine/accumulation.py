# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Checkpointing of the gradient of an incomplete accumulation window."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.optim import OptimWrapper
from torch.nn.parallel import DistributedDataParallel

from .runner_parts import bare_model, optim_wrappers


def open_windows(runner) -> list[tuple[int, float]]:
    """Incomplete windows of ``accumulative_counts``.

    Returns:
        list[tuple[int, float]]: Of each how many batches it has, and their factor in its mean.
    """
    one = torch.ones(())
    return [
        (each.inner_count % each._accumulative_counts, float(each.scale_loss(one)))
        for each in optim_wrappers(runner)
        if isinstance(each, OptimWrapper) and not each.should_update()
    ]


def share_gradient(runner) -> None:
    """Let all processes go on with their mean gradient, so that the first can save it for all.

    Within a window each has its own, and the end of the window takes the mean.
    """
    if get_world_size() == 1 or not _is_shared(runner) or not open_windows(runner):
        return
    parameters = list(runner.model.parameters())
    used = torch.tensor([int(p.grad is not None) for p in parameters])
    all_reduce(used, 'max')
    for parameter, anywhere in zip(parameters, used.tolist(), strict=True):
        if anywhere:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            all_reduce(parameter.grad, 'mean')


def _is_shared(runner) -> bool:
    """Whether each process has the whole model."""
    return isinstance(runner.model, DistributedDataParallel)


def partial_gradient(runner) -> dict[str, Any] | None:
    """What :func:`restore_gradient` takes; None at the end of a window."""
    windows = open_windows(runner)
    if not windows or not (get_world_size() == 1 or _is_shared(runner)):
        return None
    parameters = bare_model(runner.model).named_parameters()
    return dict(
        windows=windows,
        gradient={name: p.grad.cpu() for name, p in parameters if p.grad is not None},
    )


def restore_gradient(runner, stored: dict[str, Any] | None) -> None:
    """Go on with a gradient, if its window goes on."""
    if stored is None:
        return
    if stored['windows'] != open_windows(runner):
        runner.logger.warning(
            'The gradient of an accumulation window that was not complete is lost, as other '
            f'windows are counted from iteration {runner.iter + 1} on.'
        )
        return
    for name, parameter in bare_model(runner.model).named_parameters():
        if name in stored['gradient']:
            parameter.grad = stored['gradient'][name].to(parameter)
    runner.logger.info('The gradient of the window was in the checkpoint, so that none is lost.')
