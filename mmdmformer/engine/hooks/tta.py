# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Averaged weights under test-time augmentation."""

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import HOOKS


@HOOKS.register_module()
class AverageUnderTTAHook(Hook):
    """Makes EMAHook use averaged weights if test-time augmentation wraps the model.

    mmpretrain's hook (1.2) looks for it under the names of the wrapped model, finds none, and tests
    weights that were never trained. The average is what a checkpoint's ``state_dict`` holds, from
    where EMAHook takes it if there is nothing else.

    Examples:
        >>> custom_hooks = [dict(type='AverageUnderTTAHook')]
    """

    priority = 'VERY_HIGH'  # before EMAHook

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Leave the average in one place."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if isinstance(model, BaseTTAModel):
            checkpoint.pop('ema_state_dict', None)
