# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
lr = 2e-4
max_iters = 40000

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=lr, betas=(0.9, 0.999), weight_decay=1e-4),
)
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=0.0, begin=0, end=max_iters, by_epoch=False),
]
train_cfg = dict(type='ResumableIterLoop', max_iters=max_iters, val_interval=4000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
auto_scale_lr = dict(enable=False, base_batch_size=16)
# 2 images a GPU are too few for batch norm. One process, or a CPU, keeps plain batch norm.
sync_bn = 'torch'
