# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
from .pretrained import CheckedPretrainedInit

__all__ = ['CheckedPretrainedInit']
