# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'metaformer-nano-dma_mini-imagenet.py'

model = dict(
    backbone=dict(mixer=dict(type='DynamicDepthwiseConv'), arch=dict(ffn_ratios=(8, 8, 5, 5)))
)
