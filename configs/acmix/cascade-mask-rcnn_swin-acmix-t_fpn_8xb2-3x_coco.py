# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
_base_ = [
    '../_base_/models/cascade-mask-rcnn_fpn.py',
    '../_base_/datasets/coco_instance_multi-scale.py',
    '../_base_/schedules/adamw_3x_coco.py',
    '../_base_/detection_runtime.py',
]

pretrained = None  # file or URL of an ImageNet checkpoint; None trains from scratch
drop_path_rate = 0.2

model = dict(
    backbone=dict(
        type='SwinACmix',
        arch='tiny',
        out_indices=(0, 1, 2, 3),
        drop_path_rate=drop_path_rate,
        init_cfg=dict(type='CheckedPretrained', checkpoint=pretrained),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
optim_wrapper = dict(
    optimizer=dict(weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        custom_keys={
            'relative_position_bias_table': dict(decay_mult=0.0),
            '.rates.': dict(decay_mult=0.0),  # alpha and beta
        },
    ),
)
