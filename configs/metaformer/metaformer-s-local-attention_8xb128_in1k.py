# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# Attention in windows of 7x7 with relative positions.
_base_ = 'metaformer-s-dma_8xb128_in1k.py'

model = dict(backbone=dict(mixer=dict(type='LocalAttention'), arch=dict(depths=(2, 2, 14, 2))))
