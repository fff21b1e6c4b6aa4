# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
from .dma import DMA, FoldedDMA

__all__ = ['DMA', 'FoldedDMA']
