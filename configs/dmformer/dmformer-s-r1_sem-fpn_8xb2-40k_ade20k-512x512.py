# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# Ablation: the token mixer does not expand its channels; more blocks make up for it.
_base_ = 'dmformer-s_sem-fpn_8xb2-40k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        mixer=dict(expand_ratio=1),
        arch=dict(
            _delete_=True,
            embed_dims=(64, 128, 320, 512),
            depths=(2, 2, 12, 2),
            ffn_ratios=(8, 8, 4, 4),
        ),
    )
)
