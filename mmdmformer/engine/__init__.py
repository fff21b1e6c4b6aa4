# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
from . import cpu_distributed  # noqa: F401  (registers its model wrapper)
from .hooks import *  # noqa: F403
from .hooks import __all__ as _hooks
from .layer_decay import LayerDecayOptimWrapperConstructor
from .loops import ResumableEpochLoop, ResumableIterLoop
from .muon import MuonWithAdamW

__all__ = [
    'LayerDecayOptimWrapperConstructor',
    'MuonWithAdamW',
    'ResumableEpochLoop',
    'ResumableIterLoop',
    *_hooks,
]
