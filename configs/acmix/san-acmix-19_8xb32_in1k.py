# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
_base_ = [
    '../_base_/models/classifier_plain.py',
    '../_base_/datasets/imagenet_224_plain.py',
    '../_base_/schedules/sgd-cosine_100e_in1k.py',
    '../_base_/classification_runtime.py',
]

batch_size = 32  # images a GPU
pretrained = None  # file or URL of a checkpoint to fine-tune; None trains from scratch

model = dict(
    backbone=dict(
        type='SANACmix',
        arch='19',
        init_cfg=dict(type='CheckedPretrained', checkpoint=pretrained),
    ),
    head=dict(in_channels=2048),
)
loader = dict(batch_size=batch_size)
train_dataloader = loader
val_dataloader = loader
test_dataloader = loader

# no decay on alpha and beta
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'.rates.': dict(decay_mult=0.0)}))
