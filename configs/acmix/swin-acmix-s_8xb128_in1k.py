# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'swin-acmix-t_8xb128_in1k.py'

drop_path_rate = 0.3

model = dict(backbone=dict(arch='small', drop_path_rate=drop_path_rate))
