# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# Convolution and attention on shared projections.
_base_ = 'metaformer-s-dma_8xb128_in1k.py'

model = dict(backbone=dict(mixer=dict(type='ACmix'), arch=dict(depths=(2, 2, 15, 2))))
