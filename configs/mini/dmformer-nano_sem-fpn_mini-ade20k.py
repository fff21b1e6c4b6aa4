# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# The production config on the built-in digits: only data, width, length and batch differ.
_base_ = '../dmformer/dmformer-s_sem-fpn_8xb2-40k_ade20k-512x512.py'

data_root = 'data/mini/ade/ADEChallengeData2016'
classes = ('background', *(f'digit_{i}' for i in range(10)))
palette = [[64, 64, 64], [230, 25, 75], [60, 180, 75], [255, 225, 25], [0, 130, 200]]
palette += [[245, 130, 48], [145, 30, 180], [70, 240, 240], [240, 50, 230], [210, 245, 60]]
palette += [[250, 190, 212]]
image_scale = (96, 96)  # pixels
ratio_range = (0.8, 1.25)  # of it; a digit must stay whole and legible
batch_size = 16
num_workers = 2
drop_path_rate = 0.0
lr = 2e-3
max_iters = 800

model = dict(
    data_preprocessor=dict(size=image_scale),
    backbone=dict(arch='nano', drop_path_rate=drop_path_rate),
    neck=dict(in_channels=[16, 32, 80, 128], out_channels=64),
    decode_head=dict(in_channels=[64, 64, 64, 64], channels=64, num_classes=len(classes)),
)

train_pipeline = _base_.train_pipeline
train_pipeline[2].update(scale=image_scale, ratio_range=ratio_range)
train_pipeline[3].update(crop_size=image_scale)
train_pipeline[4].update(prob=0.0)  # a mirrored digit is no digit
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=image_scale)
tta_pipeline = _base_.tta_pipeline
resizes = [
    dict(type='Resize', scale=tuple(int(side * ratio) for side in image_scale), keep_ratio=True)
    for ratio in _base_.test_ratios
]
tta_pipeline[1].update(transforms=[resizes, *tta_pipeline[1].transforms[1:]])

# ADE20KDataset itself admits the classes of ADE20K alone.
dataset = dict(
    type='BaseSegDataset',
    data_root=data_root,
    metainfo=dict(classes=classes, palette=palette),
    img_suffix='.jpg',
    seg_map_suffix='.png',
    reduce_zero_label=True,
)
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    dataset=dict(**dataset, pipeline=train_pipeline),
)
val_dataloader = dict(num_workers=num_workers, dataset=dict(**dataset, pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=lr))
param_scheduler = _base_.param_scheduler
param_scheduler[0].update(end=max_iters)
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
auto_scale_lr = dict(base_batch_size=batch_size)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=max_iters))
