# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
from .fused_conv import conv2d, fuses, map_slices
from .multi_dilated_dwconv import multi_dilated_dwconv
from .paths import dwconv_path, to_preferred_format

__all__ = [
    'conv2d',
    'dwconv_path',
    'fuses',
    'map_slices',
    'multi_dilated_dwconv',
    'to_preferred_format',
]
