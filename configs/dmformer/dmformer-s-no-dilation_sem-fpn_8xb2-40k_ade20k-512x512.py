# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# Ablation: the three depthwise branches are not dilated.
_base_ = 'dmformer-s_sem-fpn_8xb2-40k_ade20k-512x512.py'

model = dict(backbone=dict(mixer=dict(dilations=(1, 1, 1))))
