# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'swin-acmix-t_upernet_8xb2-160k_ade20k-512x512.py'

model = dict(backbone=dict(arch='small'))
