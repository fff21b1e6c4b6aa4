# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# Attention without softmax, (Q K^T / d + B) V, at a cost that grows with the pixels alone.
_base_ = 'metaformer-s-dma_8xb128_in1k.py'

model = dict(
    backbone=dict(
        mixer=dict(type='DynamicAttention', activation='scaling'), arch=dict(depths=(2, 2, 14, 2))
    )
)
