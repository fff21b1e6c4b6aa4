# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
from .acmix import ACmix, ACmixOperator, PathRates
from .acmix_convolution import ConvolutionPath
from .dma import DMA
from .dwconv import DepthwiseConv
from .dynamic_attention import DynamicAttention, DynamicTokenAttention
from .dynamic_conv import DynamicConv
from .dynamic_dwconv import DynamicDepthwiseConv
from .identity import Identity
from .linformer import Linformer
from .lka import LKA
from .local_attention import LocalAttention
from .pooling import Pooling
from .self_attention import SelfAttention

__all__ = [
    'ACmix',
    'ACmixOperator',
    'ConvolutionPath',
    'DMA',
    'DepthwiseConv',
    'DynamicAttention',
    'DynamicConv',
    'DynamicDepthwiseConv',
    'DynamicTokenAttention',
    'Identity',
    'LKA',
    'Linformer',
    'LocalAttention',
    'PathRates',
    'Pooling',
    'SelfAttention',
]
