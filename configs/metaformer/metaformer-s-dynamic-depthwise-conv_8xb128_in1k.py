# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# A depthwise kernel for each position, made from its features.
_base_ = 'metaformer-s-dma_8xb128_in1k.py'

model = dict(backbone=dict(mixer=dict(type='DynamicDepthwiseConv'), arch=dict(depths=(2, 2, 6, 2))))
