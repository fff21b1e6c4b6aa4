# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# Road scenes, with the pipelines of ADE20K.
_base_ = 'ade20k_512x512.py'

data_root = 'data/camvid'
classes = (
    *('sky', 'building', 'pole', 'road', 'pavement', 'tree'),
    *('sign symbol', 'fence', 'car', 'pedestrian', 'bicyclist'),
)
palette = [[128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [60, 40, 222]]
palette += [[128, 128, 0], [192, 128, 128], [64, 64, 128], [64, 0, 128], [64, 64, 0], [0, 128, 192]]
void = 11  # in the label images; head, padding, crops and metric must agree
image_scale = (480, 360)  # pixels, as published
crop_size = (256, 256)
batch_size = 8
num_workers = 1

train_pipeline = _base_.train_pipeline
train_pipeline[1] = dict(type='LoadAnnotations')
train_pipeline[2].update(scale=image_scale, ratio_range=(0.6, 1.4))
train_pipeline[3].update(crop_size=crop_size, ignore_index=void)
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=image_scale)
test_pipeline[2] = dict(type='LoadAnnotations')
tta_pipeline = _base_.tta_pipeline
resizes = [
    dict(type='Resize', scale=tuple(int(side * ratio) for side in image_scale), keep_ratio=True)
    for ratio in _base_.test_ratios
]
tta_pipeline[1].transforms[0] = resizes
tta_pipeline[1].transforms[2] = [dict(type='LoadAnnotations')]

dataset = dict(
    type='BaseSegDataset',
    data_root=data_root,
    metainfo=dict(classes=classes, palette=palette),
    img_suffix='.jpg',
    seg_map_suffix='.png',
    ignore_index=void,
)
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='images/train', seg_map_path='annotations/train'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    num_workers=num_workers,
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='images/val', seg_map_path='annotations/val'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = dict(
    num_workers=num_workers,
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='images/test', seg_map_path='annotations/test'),
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(ignore_index=void)
test_evaluator = val_evaluator
