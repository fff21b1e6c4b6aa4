# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# Without warm-up: a cosine over the epochs, as SAN is trained.
_base_ = 'sgd_100e_in1k.py'

max_epochs = 100

param_scheduler = [
    dict(
        type='CosineAnnealingLR',
        eta_min=0.0,
        T_max=max_epochs,
        begin=0,
        end=max_epochs,
        by_epoch=True,
    ),
]
