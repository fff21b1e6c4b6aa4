# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Logging whether the learning rate fits the global batch size."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..batch_size import describe_batch_size


@HOOKS.register_module()
class BatchSizeHook(Hook):
    """Logs how the learning rate fits the global batch size, if it was chosen for another one.

    Examples:
        >>> default_hooks = dict(batch_size=dict(type='BatchSizeHook'))
    """

    priority = 'VERY_LOW'

    def before_train(self, runner) -> None:
        """Write a line into the log."""
        if runner.cfg.get('train_dataloader') and runner.cfg.get('optim_wrapper'):
            report = describe_batch_size(runner.cfg, runner.world_size)
            if report is not None:
                runner.logger.log(*report)
