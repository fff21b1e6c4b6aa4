# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'pvt-acmix-t_8xb128_in1k.py'

model = dict(backbone=dict(arch='small'))
