# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
_base_ = [
    '../_base_/models/classifier_transformer.py',
    '../_base_/datasets/imagenet_224.py',
    '../_base_/schedules/adamw_300e_in1k.py',
    '../_base_/classification_runtime.py',
]

pretrained = None  # file or URL of a checkpoint to fine-tune; None trains from scratch
drop_path_rate = 0.1

model = dict(
    backbone=dict(
        type='PVTACmix',
        arch='tiny',
        cls_token=True,
        drop_path_rate=drop_path_rate,
        init_cfg=dict(type='CheckedPretrained', checkpoint=pretrained),
    ),
    neck=None,  # the class token is the feature
    head=dict(in_channels=512),
)
# each image three times with different augmentations, over all GPUs
train_dataloader = dict(sampler=dict(type='RepeatAugSampler'))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(cls_token=dict(decay_mult=0.0))))
