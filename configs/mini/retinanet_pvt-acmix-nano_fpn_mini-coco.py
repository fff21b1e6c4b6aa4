# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# The production config on the built-in digits: only data, width, length and batch differ.
_base_ = '../acmix/retinanet_pvt-acmix-t_fpn_8xb2-1x_coco.py'

data_root = 'data/mini/coco'
classes = tuple(f'digit_{i}' for i in range(10))
image_scale = (128, 128)  # pixels
batch_size = 8
num_workers = 2
drop_path_rate = 0.0
lr = 1e-3
max_epochs = 6
milestones = [4, 5]  # epochs
warmup_iters = 50

model = dict(
    backbone=dict(arch='nano', img_size=image_scale[0], drop_path_rate=drop_path_rate),
    neck=dict(in_channels=[16, 32, 80, 128], out_channels=64),
    bbox_head=dict(num_classes=len(classes), in_channels=64, feat_channels=64, stacked_convs=2),
)

train_pipeline = _base_.train_pipeline
train_pipeline[2].update(scale=image_scale)
train_pipeline[3].update(prob=0.0)  # a mirrored digit is no digit
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=image_scale)
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1].transforms[0][0].update(scale=image_scale)

dataset = dict(data_root=data_root, metainfo=dict(classes=classes))
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    dataset=dict(**dataset, pipeline=train_pipeline),
)
val_dataloader = dict(num_workers=num_workers, dataset=dict(**dataset, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=f'{data_root}/annotations/instances_val2017.json')
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(lr=lr))
param_scheduler = _base_.param_scheduler
param_scheduler[0].update(end=warmup_iters)
param_scheduler[1].update(end=max_epochs, milestones=milestones)
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
auto_scale_lr = dict(base_batch_size=batch_size)
default_hooks = dict(logger=dict(interval=10))
