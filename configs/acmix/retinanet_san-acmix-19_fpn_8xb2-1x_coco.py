# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
_base_ = [
    '../_base_/models/retinanet_fpn.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/sgd_1x_coco.py',
    '../_base_/detection_runtime.py',
]

pretrained = None  # file or URL of an ImageNet checkpoint; None trains from scratch

model = dict(
    backbone=dict(
        type='SANACmix',
        arch='19',
        out_indices=(0, 1, 2, 3),
        init_cfg=dict(type='CheckedPretrained', checkpoint=pretrained),
    ),
    neck=dict(in_channels=[256, 512, 1024, 2048]),
)
# no decay on alpha and beta
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'.rates.': dict(decay_mult=0.0)}))
