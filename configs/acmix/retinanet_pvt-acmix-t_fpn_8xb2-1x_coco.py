# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
_base_ = [
    '../_base_/models/retinanet_fpn.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/adamw_1x_coco.py',
    '../_base_/detection_runtime.py',
]

pretrained = None  # file or URL of an ImageNet checkpoint; None trains from scratch
drop_path_rate = 0.1

model = dict(
    backbone=dict(
        type='PVTACmix',
        arch='tiny',
        out_indices=(0, 1, 2, 3),
        drop_path_rate=drop_path_rate,
        init_cfg=dict(type='CheckedPretrained', checkpoint=pretrained),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
# no decay on alpha and beta
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'.rates.': dict(decay_mult=0.0)}))
