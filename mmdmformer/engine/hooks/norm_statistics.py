# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Batch norm statistics that are the same in all processes and in their checkpoints."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


@HOOKS.register_module()
class SyncNormStatisticsHook(Hook):
    """Averages the running statistics of batch norms over the processes, after each iteration.

    So the network that is validated is the one that is saved, whenever that happens and whether
    averages of its weights are kept (``EMAHook``) or not, and a resumed run goes on with the
    statistics of all. A step of running statistics is linear: their mean after each step is that of
    separate ones at the end. mmengine's ``SyncBuffersHook`` (0.10.7) averages before a validation:
    in a loop over iterations after the checkpoint is saved, and never in the copy that ``EMAHook``
    saves; it is not needed beside this one. Synchronized batch norm and one process are left alone.

    Examples:
        >>> custom_hooks = [dict(type='SyncNormStatisticsHook')]
    """

    priority = 'HIGH'  # before the weights' average takes the statistics

    def after_train_iter(
        self, runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        """Average the statistics that the iteration has changed."""
        if get_world_size() == 1:
            return
        statistics = list(_changed(runner.model))
        if not statistics:
            return
        mean = torch.cat([each.flatten() for each in statistics])
        all_reduce(mean, op='mean')
        for each, part in zip(
            statistics, mean.split([each.numel() for each in statistics]), strict=True
        ):
            each.copy_(part.view_as(each))


def _changed(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        if (
            isinstance(module, _NormBase)
            and not isinstance(module, nn.SyncBatchNorm)
            and module.training
            and module.running_mean is not None
            and module.running_var is not None
        ):
            yield from (module.running_mean, module.running_var)
