# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# Table 6: one rate learns, that of the attention path; the other is 1.
_base_ = 'swin-acmix-t_8xb128_in1k.py'

model = dict(backbone=dict(rates='learned_alpha'))
