# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# DMFormer-S as the MetaFormer that it is; all other configs here inherit it.
_base_ = '../dmformer/dmformer-s_8xb128_in1k.py'

model = dict(
    backbone=dict(
        type='MetaFormer',
        arch=dict(
            _delete_=True,
            embed_dims=(64, 128, 320, 512),
            depths=(2, 2, 6, 2),
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
