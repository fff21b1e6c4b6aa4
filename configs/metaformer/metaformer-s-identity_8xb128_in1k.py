# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# No token mixer: the convolutions between the stages and in the FFNs mix alone.
_base_ = 'metaformer-s-dma_8xb128_in1k.py'

model = dict(backbone=dict(mixer=dict(type='Identity'), arch=dict(depths=(2, 2, 23, 2))))
