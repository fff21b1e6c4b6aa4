# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
_base_ = [
    '../_base_/models/sem-fpn.py',
    '../_base_/datasets/ade20k_512x512_multiple-32.py',
    '../_base_/schedules/adamw_40k_ade20k.py',
    '../_base_/segmentation_runtime.py',
]

batch_size = 4  # images a GPU
pretrained = None  # file or URL of an ImageNet checkpoint; None trains from scratch
drop_path_rate = 0.1

model = dict(
    backbone=dict(
        type='PVTACmix',
        arch='tiny',
        out_indices=(0, 1, 2, 3),
        drop_path_rate=drop_path_rate,
        init_cfg=dict(type='CheckedPretrained', checkpoint=pretrained),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
train_dataloader = dict(batch_size=batch_size)
auto_scale_lr = dict(base_batch_size=32)
# no decay on alpha and beta
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'.rates.': dict(decay_mult=0.0)}))
