# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
_base_ = [
    '../_base_/models/retinanet_fpn.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/adamw_1x_coco.py',
    '../_base_/detection_runtime.py',
]

pretrained = None  # file or URL of an ImageNet checkpoint; None trains from scratch
drop_path_rate = 0.2

model = dict(
    backbone=dict(
        type='DynamicSwin',
        arch='tiny',
        activation='none',
        kernel='depthwise',
        pad_small_map=True,
        out_indices=(1, 2, 3),  # the norm of an output that nobody takes would not learn
        drop_path_rate=drop_path_rate,
        init_cfg=dict(type='CheckedPretrained', checkpoint=pretrained),
    ),
    neck=dict(in_channels=[192, 384, 768], start_level=0),
)
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys=dict(relative_position_bias_table=dict(decay_mult=0.0))),
)
