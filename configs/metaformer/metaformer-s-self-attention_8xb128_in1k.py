# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# Attention of each position to all.
_base_ = 'metaformer-s-dma_8xb128_in1k.py'

model = dict(backbone=dict(mixer=dict(type='SelfAttention'), arch=dict(depths=(2, 2, 14, 2))))
