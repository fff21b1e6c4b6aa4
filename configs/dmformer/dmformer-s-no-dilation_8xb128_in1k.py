# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# Ablation: the three depthwise branches are not dilated.
_base_ = 'dmformer-s_8xb128_in1k.py'

model = dict(backbone=dict(mixer=dict(dilations=(1, 1, 1))))
