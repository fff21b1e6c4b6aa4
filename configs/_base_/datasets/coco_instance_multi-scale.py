# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# Half of the images are cropped before they are resized, as Swin does.
_base_ = 'coco_instance.py'

shorter_sides = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)  # pixels
resize = dict(
    type='RandomChoiceResize',
    scales=[(_base_.image_scale[0], side) for side in shorter_sides],
    keep_ratio=True,
)
crop = [
    dict(
        type='RandomChoiceResize',
        scales=[(_base_.image_scale[0], side) for side in (400, 500, 600)],
        keep_ratio=True,
    ),
    dict(
        type='RandomCrop',
        crop_type='absolute_range',
        crop_size=(384, 600),
        allow_negative_crop=True,
    ),
]
train_pipeline = _base_.train_pipeline
train_pipeline[2] = dict(type='RandomChoice', transforms=[[resize], [*crop, resize]])
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
