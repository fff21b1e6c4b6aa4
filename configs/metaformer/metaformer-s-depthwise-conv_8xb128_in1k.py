# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# A 7x7 depthwise convolution, with a 3x3 one beside it in training.
_base_ = 'metaformer-s-dma_8xb128_in1k.py'

model = dict(backbone=dict(mixer=dict(type='DepthwiseConv'), arch=dict(depths=(2, 2, 17, 2))))
