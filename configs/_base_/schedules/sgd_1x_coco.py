# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'adamw_1x_coco.py'

lr = 0.01

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='SGD', lr=lr, momentum=0.9, weight_decay=1e-4),
)
