# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
from .multi_dilated_dwconv import multi_dilated_dwconv

__all__ = ['multi_dilated_dwconv']
