# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Comparison of the global batch size with the one the learning rate was chosen for."""

import logging
from os import PathLike

from mmengine.config import Config
from mmengine.runner import Runner

from .errors import UsageError


def global_batch_size(cfg: Config, processes: int) -> int:
    """Count the images behind each update of the weights.

    Args:
        cfg (Config): Its ``train_dataloader.batch_size`` is for one process.
        processes (int): Number of processes (GPUs) that train together.

    Returns:
        int: Images in a step of the optimizer, gradient accumulation included.
    """
    accumulated = cfg.optim_wrapper.get('accumulative_counts', 1)
    return processes * cfg.train_dataloader.batch_size * accumulated


def describe_batch_size(cfg: Config, processes: int) -> tuple[int, str] | None:
    """Say how the learning rate fits the global batch.

    Args:
        cfg (Config): With ``auto_scale_lr`` as it is used.
        processes (int): Number of processes (GPUs) that train together.

    Returns:
        tuple[int, str] | None: Level of the log and the sentence. None if the batch is the one
        that the rate was chosen for, or if the config does not tell.
    """
    scaling = cfg.get('auto_scale_lr') or {}
    base = scaling.get('base_batch_size')
    lr = cfg.optim_wrapper.get('optimizer', {}).get('lr')
    if base is None or lr is None:
        return None
    batch = global_batch_size(cfg, processes)
    if scaling.get('enable', False):
        return logging.INFO, (
            f'The learning rate was scaled from {lr:g} to {lr * batch / base:g}: it was chosen for '
            f'a global batch of {base} images, and this run has {batch}.'
        )
    if batch == base:
        return None
    return logging.WARNING, (
        f'The learning rate {lr:g} was chosen for a global batch of {base} images '
        f'(auto_scale_lr.base_batch_size), and this run has {batch}: add --auto-scale-lr to train '
        f'with {lr * batch / base:g}, or change train_dataloader.batch_size or the number of GPUs.'
    )


def enable_auto_scale_lr(cfg: Config, name: str | PathLike) -> None:
    """Let the runner scale the learning rate to the global batch.

    Args:
        cfg (Config): Changed in place.
        name (str | PathLike): The config file.

    Raises:
        UsageError: If the config does not say for which batch its learning rate was chosen.
    """
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise UsageError(
            '--auto-scale-lr needs auto_scale_lr.base_batch_size, the batch size that the '
            f'learning rate was chosen for, and {name} has none.'
        )
    cfg.auto_scale_lr.enable = True


def count_accumulation(runner: Runner) -> None:
    """Let mmengine's scaling of the learning rate count accumulated batches.

    Args:
        runner (Runner): Before it scales.
    """
    scaling = runner.auto_scale_lr
    accumulated = getattr(runner.optim_wrapper, 'get', lambda *_: 1)('accumulative_counts', 1)
    if scaling and scaling.get('base_batch_size') and accumulated > 1:
        base = scaling['base_batch_size'] / accumulated
        runner.auto_scale_lr = {**scaling, 'base_batch_size': base}
