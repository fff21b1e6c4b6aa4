# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# Ablation: one depthwise branch in place of three.
_base_ = 'dmformer-s_8xb128_in1k.py'

model = dict(backbone=dict(mixer=dict(kernel_sizes=(7,), dilations=(3,))))
