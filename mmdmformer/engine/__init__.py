# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
from .layer_decay import LayerDecayOptimWrapperConstructor
from .pretrained import CheckedPretrainedInit

__all__ = ['CheckedPretrainedInit', 'LayerDecayOptimWrapperConstructor']
