# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'dmformer-s_sem-fpn_camvid.py'

pretrained = 'mmdmformer://dmformer-nano_cifar10'  # None trains from scratch

model = dict(
    backbone=dict(arch='nano', drop_path_rate=0.0, init_cfg=dict(checkpoint=pretrained)),
    neck=dict(in_channels=[16, 32, 80, 128], out_channels=64),
    decode_head=dict(in_channels=[64, 64, 64, 64], channels=64),
)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
