# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# Without RandAugment and random erasing, as residual networks are usually trained for 100 epochs.
_base_ = 'imagenet_224.py'

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=224, backend='pillow'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(interpolation='bilinear')

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

tta_pipeline = _base_.tta_pipeline
tta_pipeline[1].update(transforms=[[test_pipeline[1]], *tta_pipeline[1].transforms[1:]])
