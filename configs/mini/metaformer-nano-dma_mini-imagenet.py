# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# DMFormer nano as the MetaFormer that it is; the configs with other token mixers inherit it.
_base_ = 'dmformer-nano_mini-imagenet.py'

model = dict(
    backbone=dict(
        type='MetaFormer',
        arch=dict(
            _delete_=True,
            embed_dims=(16, 32, 80, 128),
            depths=(1, 1, 2, 1),
            ffn_ratios=(8, 8, 4, 4),
        ),
        mixer=dict(type='DMA'),
    )
)
# Two more without weight decay: positions in windows, and the biases of a bank of kernels.
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            'relative_position_bias_table': dict(decay_mult=0.0),
            'mixer.bias': dict(decay_mult=0.0),
        }
    )
)
