# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# For RetinaNet: the paper does not print L's accuracy. Stochastic depth and clipping: PVT-Large.
_base_ = 'pvt-acmix-t_8xb128_in1k.py'

drop_path_rate = 0.3

model = dict(backbone=dict(arch='large', drop_path_rate=drop_path_rate))
optim_wrapper = dict(clip_grad=dict(max_norm=1.0))
