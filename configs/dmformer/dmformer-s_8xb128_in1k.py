# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
_base_ = [
    '../_base_/models/classifier.py',
    '../_base_/datasets/imagenet_224_resize-248.py',
    '../_base_/schedules/adamw_300e_in1k.py',
    '../_base_/classification_runtime.py',
]

pretrained = None  # file or URL of a checkpoint to fine-tune; None trains from scratch
drop_path_rate = 0.2

model = dict(
    backbone=dict(
        type='DMFormer',
        arch='small',
        drop_path_rate=drop_path_rate,
        init_cfg=dict(type='CheckedPretrained', checkpoint=pretrained),
    ),
    head=dict(in_channels=512),
)
