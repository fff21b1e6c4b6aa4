# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# The production recipe on road scenes, with a shorter schedule.
_base_ = [
    '../_base_/models/sem-fpn.py',
    '../_base_/datasets/camvid.py',
    '../_base_/schedules/adamw_40k_ade20k.py',
    '../_base_/segmentation_runtime.py',
]

pretrained = None  # file or URL of a checkpoint; None trains from scratch
max_iters = 2000

model = dict(
    data_preprocessor=dict(size=_base_.crop_size, seg_pad_val=_base_.void),
    backbone=dict(
        type='DMFormer',
        arch='small',
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.1,
        init_cfg=dict(type='CheckedPretrained', checkpoint=pretrained),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
    decode_head=dict(num_classes=len(_base_.classes), ignore_index=_base_.void),
)

param_scheduler = _base_.param_scheduler
param_scheduler[0].update(end=max_iters)
train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 4)
auto_scale_lr = dict(base_batch_size=_base_.batch_size)
default_hooks = dict(checkpoint=dict(interval=max_iters // 4))
