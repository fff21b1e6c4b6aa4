# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
from .drawing import DrawPredictionsHook
from .layer_decay import LayerDecayOptimWrapperConstructor
from .tta import AverageUnderTTAHook

__all__ = ['AverageUnderTTAHook', 'DrawPredictionsHook', 'LayerDecayOptimWrapperConstructor']
