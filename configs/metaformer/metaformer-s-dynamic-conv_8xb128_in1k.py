# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# A depthwise kernel for each image, mixed from four learned ones.
_base_ = 'metaformer-s-dma_8xb128_in1k.py'

model = dict(backbone=dict(mixer=dict(type='DynamicConv'), arch=dict(depths=(2, 2, 22, 2))))
