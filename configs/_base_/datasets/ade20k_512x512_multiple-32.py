# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# The sides of test images are multiples of 32 pixels, as PVT, PoolFormer and VAN test Semantic FPN.
_base_ = 'ade20k_512x512.py'

align = dict(type='ResizeToMultiple', size_divisor=32)

test_pipeline = _base_.test_pipeline
test_pipeline.insert(2, align)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

tta_pipeline = _base_.tta_pipeline
tta_pipeline[1].transforms.insert(1, [align])
