# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
from .backend import dwconv_backend, fuses, why_not
from .fused_conv import conv2d, map_slices
from .memory_format import memory_format_of, to_preferred_format
from .multi_dilated_dwconv import multi_dilated_dwconv, sum_branches
from .watching import is_watched, may_bypass

__all__ = [
    'conv2d',
    'dwconv_backend',
    'fuses',
    'is_watched',
    'map_slices',
    'may_bypass',
    'memory_format_of',
    'multi_dilated_dwconv',
    'sum_branches',
    'to_preferred_format',
    'why_not',
]
