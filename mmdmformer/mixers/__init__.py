# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
from .dma import DMA, FoldedDMA
from .dynamic_attention import DynamicAttention

__all__ = ['DMA', 'DynamicAttention', 'FoldedDMA']
