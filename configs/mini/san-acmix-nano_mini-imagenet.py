# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# The production config on the built-in digits: only data, width, length and batch differ.
_base_ = '../acmix/san-acmix-19_8xb32_in1k.py'

data_root = 'data/mini/imagenet'
classes = tuple(f'digit_{i}' for i in range(10))
image_size = 48  # pixels
crop_area = (0.7, 1.0)  # of the image; a digit must stay visible
batch_size = 32
num_workers = 2
lr = 0.01
max_epochs = 8

model = dict(
    data_preprocessor=dict(num_classes=len(classes)),
    backbone=dict(arch='nano'),
    head=dict(num_classes=len(classes), in_channels=256),
)

train_pipeline = _base_.train_pipeline
train_pipeline[1].update(scale=image_size, crop_ratio_range=crop_area)
train_pipeline[2].update(prob=0.0)  # a mirrored digit is no digit
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=int(image_size * 256 / 224))
test_pipeline[2].update(crop_size=image_size)
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1].update(
    transforms=[[test_pipeline[1]], [test_pipeline[2]], *tta_pipeline[1].transforms[2:]]
)

dataset = dict(data_root=data_root, metainfo=dict(classes=classes))
loader = dict(batch_size=batch_size, num_workers=num_workers)
train_dataloader = dict(**loader, dataset=dict(**dataset, pipeline=train_pipeline))
val_dataloader = dict(**loader, dataset=dict(**dataset, pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=lr))
param_scheduler = _base_.param_scheduler
param_scheduler[0].update(T_max=max_epochs, end=max_epochs)
train_cfg = dict(max_epochs=max_epochs)
auto_scale_lr = dict(base_batch_size=batch_size)
default_hooks = dict(logger=dict(interval=10))
