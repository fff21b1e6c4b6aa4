# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
from .acmix import ACmix, ConvolutionPath, PathRates
from .dma import DMA
from .dynamic_attention import DynamicAttention

__all__ = ['ACmix', 'ConvolutionPath', 'DMA', 'DynamicAttention', 'PathRates']
