# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'pvt-acmix-t_sem-fpn_8xb4-40k_ade20k-512x512.py'

model = dict(backbone=dict(arch='small'))
