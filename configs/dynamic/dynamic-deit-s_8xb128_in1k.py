# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
_base_ = [
    '../_base_/models/classifier_transformer.py',
    '../_base_/datasets/imagenet_224.py',
    '../_base_/schedules/adamw-clip_300e_in1k.py',
    '../_base_/classification_runtime.py',
]

pretrained = None  # file or URL of a checkpoint to fine-tune; None trains from scratch
drop_path_rate = 0.1
ema_momentum = 4e-5  # the share of the new weights in the average after each iteration

model = dict(
    backbone=dict(
        type='DynamicViT',
        arch='deit-small',
        drop_path_rate=drop_path_rate,
        init_cfg=dict(type='CheckedPretrained', checkpoint=pretrained),
    ),
    neck=None,
    head=dict(in_channels=384),
)
# each image three times in an epoch of a third of the images, augmented each time anew
train_dataloader = dict(sampler=dict(type='RepeatAugSampler'))
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            '.cls_token': dict(decay_mult=0.0),
            '.pos_embed': dict(decay_mult=0.0),
            'relative_position_bias_table': dict(decay_mult=0.0),
        }
    ),
)
custom_hooks = [dict(type='EMAHook', momentum=ema_momentum, priority='ABOVE_NORMAL')]
