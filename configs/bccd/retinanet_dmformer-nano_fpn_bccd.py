# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'retinanet_dmformer-s_fpn_bccd.py'

pretrained = 'mmdmformer://dmformer-nano_cifar10'  # None trains from scratch

model = dict(
    backbone=dict(arch='nano', drop_path_rate=0.0, init_cfg=dict(checkpoint=pretrained)),
    neck=dict(in_channels=[16, 32, 80, 128], out_channels=64),
    bbox_head=dict(in_channels=64, feat_channels=64, stacked_convs=2),
)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
