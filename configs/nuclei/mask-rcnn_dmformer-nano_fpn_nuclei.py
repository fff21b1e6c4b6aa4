# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'mask-rcnn_dmformer-s_fpn_nuclei.py'

pretrained = 'mmdmformer://dmformer-nano_cifar10'  # None trains from scratch

model = dict(
    backbone=dict(arch='nano', drop_path_rate=0.0, init_cfg=dict(checkpoint=pretrained)),
    neck=dict(in_channels=[16, 32, 80, 128], out_channels=64),
    rpn_head=dict(in_channels=64, feat_channels=64),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        bbox_head=dict(in_channels=64, fc_out_channels=128),
        mask_roi_extractor=dict(out_channels=64),
        mask_head=dict(in_channels=64, conv_out_channels=64, num_convs=2),
    ),
    train_cfg=dict(rcnn=dict(sampler=dict(num=256))),  # of 512 a sixth of the time
)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
