# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# mmpretrain's recipe for ConvNeXt-S, spark_sparse-convnext-small_16xb256-amp-coslr-800e_in1k.py,
# but for the network, and for mixed precision, which --amp switches on. Any folder of images will
# do, in folders of folders too, without labels.
_base_ = '../_base_/classification_runtime.py'

data_root = 'data/pictures'
image_size = 224  # pixels, a multiple of 32
batch_size = 256  # images a GPU
num_workers = 8  # processes a GPU
lr = 2e-4 * 4096 / 512
max_epochs = 800
warmup_epochs = 40
pretrained = None  # file or URL of a checkpoint to go on from; None trains from scratch

model = dict(
    type='mmdmformer.selfsup.spark.SparK',
    input_size=image_size,
    mask_ratio=0.6,
    enc_dec_norm_cfg=dict(type='SparseLN2d', eps=1e-6),
    data_preprocessor=dict(
        type='SelfSupDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
    ),
    backbone=dict(
        type='DMFormer',
        arch='small',
        drop_path_rate=0.2,
        out_indices=(0, 1, 2, 3),
        init_cfg=dict(type='CheckedPretrained', checkpoint=pretrained),
    ),
    neck=dict(type='SparKLightDecoder', feature_dim=512, upsample_ratio=32),
    head=dict(type='SparKPretrainHead', loss=dict(type='PixelReconstructionLoss', criterion='L2')),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='RandomResizedCrop',
        scale=image_size,
        crop_ratio_range=(0.2, 1.0),
        backend='pillow',
        interpolation='bicubic',
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    persistent_workers=num_workers > 0,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='CustomDataset', data_root=data_root, with_label=False, pipeline=train_pipeline
    ),
)

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='Lamb', lr=lr, betas=(0.9, 0.95), weight_decay=0.04),
    clip_grad=dict(max_norm=5.0),
    paramwise_cfg=dict(
        bias_decay_mult=0.0,
        flat_decay_mult=0.0,
        custom_keys={'mask_token': dict(decay_mult=0.0)},
    ),
)
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-4,
        begin=0,
        end=warmup_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        T_max=max_epochs - warmup_epochs,
        begin=warmup_epochs,
        end=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingWeightDecay',
        eta_min=0.2,
        T_max=max_epochs,
        begin=0,
        end=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(type='ResumableEpochLoop', max_epochs=max_epochs)
auto_scale_lr = dict(enable=False, base_batch_size=4096)
