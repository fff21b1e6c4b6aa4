# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# Table 7: shift kernels that do not learn.
_base_ = 'swin-acmix-t_8xb128_in1k.py'

model = dict(backbone=dict(shift='fixed'))
