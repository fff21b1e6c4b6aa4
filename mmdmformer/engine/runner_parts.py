# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Access to parts of a runner for hooks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.model import BaseModel, BaseTTAModel, is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner.base_loop import BaseLoop
from torch.utils.data import DataLoader


def built_dataloaders(runner) -> Iterator[tuple[str, DataLoader]]:
    """The data loaders of a runner's loops, each after 'train', 'val' or 'test'."""
    for split in ('train', 'val', 'test'):
        loop = getattr(runner, f'_{split}_loop', None)
        if isinstance(loop, BaseLoop):
            yield split, loop.dataloader


def optim_wrappers(runner) -> list[OptimWrapper]:
    """The wrappers of a runner's optimizers."""
    wrapper = runner.optim_wrapper
    return list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]


def bare_model(model: Any) -> BaseModel:
    """A model without what distributes it, or augments its tests."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model
