# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'metaformer-nano-dma_mini-imagenet.py'

model = dict(backbone=dict(mixer=dict(type='Pooling'), arch=dict(depths=(1, 1, 10, 1))))
