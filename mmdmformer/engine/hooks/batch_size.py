# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The global batch and the learning rate that was chosen for it, in the log of a run."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..batch_size import describe_batch_size


@HOOKS.register_module()
class BatchSizeHook(Hook):
    """Says how the learning rate fits the global batch, if that needs a word.

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
