# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# Table 7: kernels that learn from random ones.
_base_ = 'swin-acmix-t_8xb128_in1k.py'

model = dict(backbone=dict(shift='random'))
