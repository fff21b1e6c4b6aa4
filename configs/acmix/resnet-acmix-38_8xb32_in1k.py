# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'resnet-acmix-50_8xb32_in1k.py'

model = dict(backbone=dict(arch='38'))
