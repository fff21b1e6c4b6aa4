# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# The average of 3x3 positions.
_base_ = 'metaformer-s-dma_8xb128_in1k.py'

model = dict(backbone=dict(mixer=dict(type='Pooling'), arch=dict(depths=(2, 2, 23, 2))))
