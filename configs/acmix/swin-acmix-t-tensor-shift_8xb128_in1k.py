# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# Table 7: maps are shifted by moving tensors.
_base_ = 'swin-acmix-t_8xb128_in1k.py'

model = dict(backbone=dict(shift='tensor'))
