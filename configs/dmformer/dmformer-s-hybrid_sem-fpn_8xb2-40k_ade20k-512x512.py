# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# Ours: stage 4 has self-attention in the place of DMA; two more blocks make up for it.
_base_ = 'dmformer-s_sem-fpn_8xb2-40k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        mixer=[dict(type='DMA')] * 3 + [dict(type='SelfAttention')],
        arch=dict(
            _delete_=True,
            embed_dims=(64, 128, 320, 512),
            depths=(2, 2, 8, 2),
            ffn_ratios=(8, 8, 4, 4),
        ),
    )
)
