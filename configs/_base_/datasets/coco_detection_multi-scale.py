# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'coco_detection.py'

shorter_sides = (640, 800)  # pixels, from and to

train_pipeline = _base_.train_pipeline
train_pipeline[2] = dict(
    type='RandomResize',
    scale=[(_base_.image_scale[0], side) for side in shorter_sides],
    keep_ratio=True,
)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
