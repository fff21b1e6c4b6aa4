# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# Table 6: the attention path alone, which is Swin-T.
_base_ = 'swin-acmix-t_8xb128_in1k.py'

model = dict(backbone=dict(rates='attention'))
