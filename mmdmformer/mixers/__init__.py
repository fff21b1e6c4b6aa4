# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
from .dma import DMA

__all__ = ['DMA']
