# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
lr = 1e-4
max_epochs = 12
milestones = [8, 11]  # epochs
warmup_iters = 500

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=lr, betas=(0.9, 0.999), weight_decay=1e-4),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=warmup_iters, by_epoch=False),
    dict(
        type='MultiStepLR', milestones=milestones, gamma=0.1, begin=0, end=max_epochs, by_epoch=True
    ),
]
train_cfg = dict(type='ResumableEpochLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
auto_scale_lr = dict(enable=False, base_batch_size=16)
# 2 images a GPU are too few for batch norm. One process, or a CPU, keeps plain batch norm.
sync_bn = 'torch'
