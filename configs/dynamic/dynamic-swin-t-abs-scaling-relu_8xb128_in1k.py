# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'dynamic-swin-t_8xb128_in1k.py'

model = dict(backbone=dict(activation='scaling_relu', position='absolute'))
