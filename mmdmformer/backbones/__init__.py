# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
from .dmformer import DMFormer

__all__ = ['DMFormer']
