# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'dynamic-swin-t_8xb128_in1k.py'

drop_path_rate = 0.5

model = dict(
    backbone=dict(arch='base', drop_path_rate=drop_path_rate),
    head=dict(in_channels=1024),
)
