# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
_base_ = [
    '../_base_/models/classifier_transformer.py',
    '../_base_/datasets/imagenet_224.py',
    '../_base_/schedules/adamw-clip_300e_in1k.py',
    '../_base_/classification_runtime.py',
]

pretrained = None  # file or URL of a checkpoint to fine-tune; None trains from scratch
drop_path_rate = 0.2

model = dict(
    backbone=dict(
        type='SwinACmix',
        arch='tiny',
        drop_path_rate=drop_path_rate,
        init_cfg=dict(type='CheckedPretrained', checkpoint=pretrained),
    ),
    head=dict(in_channels=768),
)
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys=dict(relative_position_bias_table=dict(decay_mult=0.0))),
)
