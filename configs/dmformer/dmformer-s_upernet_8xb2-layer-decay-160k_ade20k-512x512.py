# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# Ours, an alternative to the paper's recipe: early blocks of the backbone learn more slowly.
_base_ = 'dmformer-s_upernet_8xb2-160k_ade20k-512x512.py'

layer_decay_rate = 0.9  # from one block to the block before; 1.0 is the paper's recipe

optim_wrapper = dict(
    constructor='LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=layer_decay_rate),
)
