# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# So few epochs on so few weights leave nothing to regularize: no Mixup and CutMix, no RandAugment,
# no drop path, and less erasing.
_base_ = 'dmformer-s_cifar10.py'

batch_size = 64
max_epochs = 24
image_size = 64  # pixels, from 32: the stem leaves a quarter of them
warmup_epochs = 1

model = dict(
    backbone=dict(arch='nano', drop_path_rate=0.0),
    head=dict(in_channels=128),
    train_cfg=dict(_delete_=True),
)

train_pipeline = _base_.train_pipeline
train_pipeline[1].update(scale=image_size)
train_pipeline[4].update(erase_prob=0.1)
train_pipeline.pop(3)
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=image_size)
test_pipeline[2].update(crop_size=image_size)
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1].update(
    transforms=[[test_pipeline[1]], [test_pipeline[2]], *tta_pipeline[1].transforms[2:]]
)
train_dataloader = dict(batch_size=batch_size, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=batch_size, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=3e-3))
param_scheduler = _base_.param_scheduler
param_scheduler[0].update(end=warmup_epochs)
param_scheduler[1].update(T_max=max_epochs - warmup_epochs, begin=warmup_epochs, end=max_epochs)
train_cfg = dict(max_epochs=max_epochs)
auto_scale_lr = dict(base_batch_size=batch_size)
