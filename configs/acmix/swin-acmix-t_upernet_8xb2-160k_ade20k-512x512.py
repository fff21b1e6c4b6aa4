# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/adamw_160k_ade20k.py',
    '../_base_/segmentation_runtime.py',
]

pretrained = None  # file or URL of an ImageNet checkpoint; None trains from scratch
drop_path_rate = 0.3

model = dict(
    backbone=dict(
        type='SwinACmix',
        arch='tiny',
        out_indices=(0, 1, 2, 3),
        drop_path_rate=drop_path_rate,
        init_cfg=dict(type='CheckedPretrained', checkpoint=pretrained),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            'relative_position_bias_table': dict(decay_mult=0.0),
            '.rates.': dict(decay_mult=0.0),  # alpha and beta
        },
    ),
)
