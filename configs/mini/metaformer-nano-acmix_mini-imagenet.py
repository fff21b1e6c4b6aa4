# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'metaformer-nano-dma_mini-imagenet.py'

model = dict(backbone=dict(mixer=dict(type='ACmix', head_dim=16), arch=dict(depths=(1, 1, 6, 1))))
