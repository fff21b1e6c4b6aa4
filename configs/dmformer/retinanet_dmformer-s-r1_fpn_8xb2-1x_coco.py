# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# Ablation: the token mixer does not expand its channels; more blocks make up for it.
_base_ = 'retinanet_dmformer-s_fpn_8xb2-1x_coco.py'

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
