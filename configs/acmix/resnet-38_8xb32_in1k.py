# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# Baseline: the same network with its 3x3 convolutions.
_base_ = 'resnet-acmix-50_8xb32_in1k.py'

model = dict(backbone=dict(type='BottleneckResNet', arch='38'))
