# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Small built-in data sets, made of real images in the layouts of the real sets."""

from .mini import CLASSES, SEG_CLASSES, MiniDataError, make_mini_data

__all__ = ['CLASSES', 'SEG_CLASSES', 'MiniDataError', 'make_mini_data']
