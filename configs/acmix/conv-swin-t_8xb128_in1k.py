# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# Table 6: a dense 3x3 convolution in place of each attention.
_base_ = 'swin-acmix-t_8xb128_in1k.py'

model = dict(backbone=dict(type='ConvSwin'))
