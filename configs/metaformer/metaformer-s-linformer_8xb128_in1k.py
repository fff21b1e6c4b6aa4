# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# Attention to 49 learned mixtures of all tokens.
_base_ = 'metaformer-s-dma_8xb128_in1k.py'

model = dict(backbone=dict(mixer=dict(type='Linformer'), arch=dict(depths=(2, 2, 14, 2))))
