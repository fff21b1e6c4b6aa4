# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# Baseline: the same network with attention alone.
_base_ = 'san-acmix-19_8xb32_in1k.py'

model = dict(backbone=dict(type='SAN'))
