# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
lr = 6e-5
max_iters = 160000
warmup_iters = 1500

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=lr, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=warmup_iters, by_epoch=False),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=warmup_iters, end=max_iters, by_epoch=False),
]
train_cfg = dict(type='ResumableIterLoop', max_iters=max_iters, val_interval=16000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
auto_scale_lr = dict(enable=False, base_batch_size=16)
# 2 images a GPU are too few for batch norm. One process, or a CPU, keeps plain batch norm.
sync_bn = 'torch'
