# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# Test images as PoolFormer's.
_base_ = 'imagenet_224.py'

resize_edge = int(224 / 0.9)  # crop ratio 0.9

test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=resize_edge)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

tta_pipeline = _base_.tta_pipeline
tta_pipeline[1].update(transforms=[[test_pipeline[1]], *tta_pipeline[1].transforms[1:]])
