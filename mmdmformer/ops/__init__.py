# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
from .multi_dilated_dwconv import dwconv_path, multi_dilated_dwconv

__all__ = ['dwconv_path', 'multi_dilated_dwconv']
